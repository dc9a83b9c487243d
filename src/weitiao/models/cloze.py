"""Language models' own heads, cut down to the words that stand for classes: their logits at a gap, or at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.models.heads import ClozeHead, MarkerHead

# Our parameters, by the names that BERT's and RoBERTa's folders give them.
THERE = (
    {
        "dense.weight": "cls.predictions.transform.dense.weight",
        "dense.bias": "cls.predictions.transform.dense.bias",
        "norm.weight": "cls.predictions.transform.LayerNorm.weight",
        "norm.bias": "cls.predictions.transform.LayerNorm.bias",
        "decoder.weight": "cls.predictions.decoder.weight",
        "decoder.bias": "cls.predictions.bias",
    },
    {
        "dense.weight": "lm_head.dense.weight",
        "dense.bias": "lm_head.dense.bias",
        "norm.weight": "lm_head.layer_norm.weight",
        "norm.bias": "lm_head.layer_norm.bias",
        "decoder.weight": "lm_head.decoder.weight",
        "decoder.bias": "lm_head.bias",
    },
)


def has_mask_head(folder: Path) -> bool:
    """Whether the weights in a folder hold a masked-LM head."""
    wanted = {names["dense.weight"] for names in THERE}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            if wanted & set(file.keys()):
                return True
    return False


def start_cloze(
    head: ClozeHead, beside: Mapping[str, Tensor], embeddings_VD: Tensor, words: Sequence[Sequence[int]]
) -> None:
    """Begin a head as the masked-LM head: the logit of a class is the mean of its words' logits.

    Args:
        beside: the tensors of the model's weights that the encoder did not take.
        embeddings_VD: the encoder's word embeddings, which the decoder shares unless it has its own.
        words: token ids of each class.

    Raises:
        WeitiaoError: there is no masked-LM head.
    """
    names = next((names for names in THERE if names["dense.weight"] in beside), None)
    if names is None:
        raise WeitiaoError(
            say(
                "--template asks a masked-LM head, and the model has none: name the folder of a ...ForMaskedLM model",
                "--template 需要掩码语言模型头，而该模型没有：请指定 ...ForMaskedLM 模型的目录",
            )
        )
    there = {own: beside[name] for own, name in names.items() if name in beside}
    decoder_VD = there.get("decoder.weight", embeddings_VD)
    bias_V = there.get("decoder.bias", torch.zeros(len(decoder_VD)))
    assert head.linear is not None
    with torch.no_grad():
        head.dense.load_state_dict({"weight": there["dense.weight"], "bias": there["dense.bias"]})
        head.norm.load_state_dict({"weight": there["norm.weight"], "bias": there["norm.bias"]})
        for place, ids in enumerate(words):
            head.linear.weight[place] = decoder_VD[list(ids)].mean(0)
            head.linear.bias[place] = bias_V[list(ids)].mean()


def start_next(head: MarkerHead, output_VD: Tensor, words: Sequence[Sequence[int]]) -> None:
    """Begin a head as a decoder's output layer: the logit of a class is the mean of its words' first tokens' logits."""
    assert head.linear is not None
    with torch.no_grad():
        head.linear.weight.copy_(torch.stack([output_VD[list(ids)].mean(0) for ids in words]))
        head.linear.bias.zero_()
