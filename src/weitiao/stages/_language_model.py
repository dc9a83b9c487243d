"""The model of a pretraining run: from scratch or from existing weights, and its folder for ``transformers``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import write_json
from weitiao.models import saving, sizes
from weitiao.models.backbone import TextModel, open_backbone, read_config
from weitiao.models.decoder import Decoder, open_decoder
from weitiao.models.encoder import Encoder
from weitiao.models.kernels import Dropout
from weitiao.models.language_head import LanguageHead, MaskedHead
from weitiao.models.llama import MODEL_TYPES


class LanguageModel(TextModel):
    """A backbone under a ``LanguageHead``."""

    head: LanguageHead

    def outputs(self, hidden_RD: Any, packed: Any, dropout: Dropout | None) -> Any:
        return hidden_RD


@dataclass
class Opened:
    """A model, and whether its head is new beside a backbone that is not."""

    model: LanguageModel
    new_head: bool


def scratch(
    size: str, decoder: bool, pairs: bool, tokenizer: Any, length: int, dropout: float | None
) -> Opened:
    """A model of a named size with random weights."""
    pieces = tokenizer.get_vocab_size()
    if decoder:
        from weitiao.data.learn_tokenizer import DECODER

        ids = {
            key.replace("_token", "_token_id"): tokenizer.token_to_id(piece) for key, piece in DECODER.items()
        }
        body = Decoder(sizes.decoder_config(size, pieces, length, ids))
        return Opened(LanguageModel(body, LanguageHead(lambda: body.output_VD), body.config), False)
    config = sizes.encoder_config(size, pieces, length, 0.1 if dropout is None else dropout)
    encoder = sizes.new_encoder(config)
    return Opened(LanguageModel(encoder, MaskedHead(encoder, pairs), config), False)


def check(folder: Path, name: str, decoder: bool) -> None:
    """Raises a ``WeitiaoError`` where the objective is for the other kind of model."""
    config = read_config(folder)
    is_decoder = config.get("model_type") in MODEL_TYPES
    if is_decoder != decoder:
        kind, fits = ("a decoder", "causal_lm") if is_decoder else ("an encoder", "masked_lm")
        raise WeitiaoError(
            say(
                f"{name} is {kind}: use --objective {fits.replace('_', '-')}",
                f"{name} 是{'解码器' if is_decoder else '编码器'}：请用 --objective {fits.replace('_', '-')}",
            )
        )


def existing(folder: Path, name: str, decoder: bool, pairs: bool, dropout: float | None) -> Opened:
    """The model in a folder, with its head where it has one.

    Raises:
        WeitiaoError: the objective is not for such a model.
    """
    check(folder, name, decoder)
    if decoder:
        body = open_decoder(folder)
        return Opened(LanguageModel(body, LanguageHead(lambda: body.output_VD), body.config), False)
    encoder, config, beside = open_backbone(folder, dropout)
    if not isinstance(encoder, Encoder) or (pairs and config["model_type"] != "bert"):
        kinds = "bert" if pairs else ", ".join(saving.TYPES)
        raise WeitiaoError(
            say(
                f"{name} is a {config.get('model_type')}; this objective is for {kinds}",
                f"{name} 的类型是 {config.get('model_type')}；该目标适用于 {kinds}",
            )
        )
    head = MaskedHead(encoder, pairs)
    known = head.load(beside, saving.type_of(config))
    return Opened(LanguageModel(encoder, head, config), not known)


def mix(model: LanguageModel, folder: Path, share: float) -> None:
    """Mix the backbone's weights with those that it came with: ``share`` of the old, the rest of the new.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models": between the two lies a model that knows the new
    texts and has kept what the old one was good for, such as sentences that lie where their meaning is.
    """
    known = open_decoder(folder) if isinstance(model.backbone, Decoder) else open_backbone(folder, None)[0]
    old = dict(known.named_parameters())
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            parameter.lerp_(old[name].to(parameter), share)


def save(model: LanguageModel, folder: Path) -> str:
    """Write ``config.json`` and the weights. Returns the class of ``transformers`` that opens them."""
    if isinstance(model.backbone, Decoder):
        model.backbone.save(folder)
        return "AutoModelForCausalLM"
    assert isinstance(model.head, MaskedHead)
    family = saving.type_of(model.config)
    prefix = "bert." if family == "Bert" else "roberta."
    name = "BertForPreTraining" if model.head.pair is not None else f"{family}ForMaskedLM"
    tensors = {prefix + key: value for key, value in model.backbone.state_dict().items()}
    own = model.head.state_dict()
    tensors |= {there: own[here] for here, there in model.head.names_there(family).items()}
    config = {
        key: value
        for key, value in model.config.items()
        if key not in ("_name_or_path", "torch_dtype", "id2label", "label2id")
    }
    config |= {"architectures": [name], "dtype": "float32", "tie_word_embeddings": True}
    write_json(folder / "config.json", config)
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    saving.save_tensors(kept, folder / "model.safetensors")
    return name


def reopened(folder: Path, decoder: bool, pairs: bool) -> LanguageModel:
    """A saved model, for evaluation."""
    with torch.no_grad():
        opened = existing(folder, str(folder), decoder, pairs, None)
    return opened.model.eval()
