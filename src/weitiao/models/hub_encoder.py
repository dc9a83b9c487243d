"""Any encoder that ``transformers`` knows, behind the packed encoder's interface.

For architectures whose mathematics ``encoder`` does not hold: DistilBERT, ELECTRA, ModernBERT, DeBERTa and so
on. Slower than the packed encoder: each group of a batch is padded to a rectangle for all of a layer, not for
attention alone.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.models.kernels import Dropout
from weitiao.models.packed import Group, Packed

# What an architecture can hold when its config names no longest text.
DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True)
class HubShape:
    """The dimensions that other parts ask of an encoder, under the names ``encoder.Shape`` has."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    max_length: int
    first_position: int = 0


class HubEncoder(nn.Module):
    """Packed token ids to hidden states, ``[T, D]``, through a model of ``transformers``.

    ``model`` is that model; its ``state_dict()`` has the names to save under. Its dropout draws from torch's
    own generator. A pooler, which hidden states do not pass through, is left out: it could not be trained.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.shape = _shape(model)
        self.takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        padding = getattr(model.get_input_embeddings(), "padding_idx", None)
        self.padding_id: int = padding if padding is not None else model.config.pad_token_id or 0
        if getattr(model, "pooler", None) is not None:
            model.pooler = nn.Identity()  # not None: not every architecture asks whether it is there

    @classmethod
    def from_folder(cls, folder: Path | str, config: dict[str, Any] | None = None) -> "HubEncoder":
        """Open a folder with ``config.json`` and safetensors weights, in fp32. Runs no code from the folder.

        Args:
            config: the folder's ``config.json``, perhaps changed (other dropout); None reads it there.

        Raises:
            WeitiaoError: ``transformers`` opens no encoder in the folder, or some of its weights are missing.
        """
        from transformers import AutoConfig, AutoModel

        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            settings = AutoConfig.from_pretrained(str(folder), **safe)
            if config is not None:
                settings = type(settings).from_dict(config)
            with quiet():
                model, report = AutoModel.from_pretrained(
                    str(folder),
                    config=settings,
                    dtype=torch.float32,
                    use_safetensors=True,
                    output_loading_info=True,
                    **safe,
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise WeitiaoError(_refused(folder, reason)) from error
        if model.config.is_encoder_decoder:
            reason = say("it is an encoder-decoder, not an encoder", "它是编码器-解码器，而不是编码器")
            raise WeitiaoError(_refused(folder, reason))
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise WeitiaoError(
                _refused(folder, say(f"it lacks the tensor {missing[0]}", f"缺少张量 {missing[0]}"))
            )
        return cls(model)

    @property
    def hidden_size(self) -> int:
        """D, the length of a hidden state."""
        return self.shape.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """The number of layers."""
        return self.shape.num_hidden_layers

    @property
    def max_length(self) -> int:
        """The longest text, in tokens."""
        return self.shape.max_length

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.shape.vocab_size

    @property
    def checkpointing(self) -> bool:
        """Whether training computes layers again in the backward pass, to hold less memory.

        Raises:
            WeitiaoError: when it is turned on and the architecture has no such thing.
        """
        return bool(self.model.is_gradient_checkpointing)

    @checkpointing.setter
    def checkpointing(self, wish: bool) -> None:
        if wish and not self.model.supports_gradient_checkpointing:
            kind = self.model.config.model_type
            raise WeitiaoError(
                say(
                    f"A {kind} model has no gradient checkpointing. Turn it off, or take smaller batches",
                    f"{kind} 模型不支持梯度检查点。请将其关闭，或减小批次",
                )
            )
        if wish:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        elif self.checkpointing:
            self.model.gradient_checkpointing_disable()

    def forward(self, packed: Packed, dropout: Dropout | None = None) -> Tensor:
        """Hidden states after the last layer, ``[T, D]``. The model drops out where ``dropout`` is given."""
        self.model.train(dropout is not None)
        return torch.cat([self._run(packed, group) for group in packed.groups])

    def _run(self, packed: Packed, group: Group) -> Tensor:
        """Hidden states of one group's tokens, ``[last - first, D]``."""
        ids_BL = _rectangle(packed.ids_T, group, self.padding_id)
        inputs = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
        if group.real_t is not None:
            inputs["attention_mask"] = _rectangle(torch.ones_like(packed.ids_T), group, 0)
        if packed.types_T is not None and self.takes_types:
            inputs["token_type_ids"] = _rectangle(packed.types_T, group, 0)
        hidden_BLD = self.model(**inputs).last_hidden_state
        hidden_nD = hidden_BLD.reshape(group.batch * group.length, -1)
        return hidden_nD if group.real_t is None else hidden_nD.index_select(0, group.real_t)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar, and no report of unused tensors (a masked-LM head, say): it tells a user nothing."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _rectangle(flat_T: Tensor, group: Group, padding: int) -> Tensor:
    """A group's part of a flat row as ``[B, L]``."""
    row = flat_T[group.first : group.last]
    if group.real_t is not None:
        row = row.new_full((group.batch * group.length,), padding).index_copy_(0, group.real_t, row)
    return row.view(group.batch, group.length)


def _shape(model: Any) -> HubShape:
    config = model.config
    longest = getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    for name, module in model.named_modules():
        # RoBERTa's kin (MPNet, Longformer ...) leave the positions up to the padding id unused.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            longest -= module.padding_idx + 1
    return HubShape(config.vocab_size, config.hidden_size, config.num_hidden_layers, longest)


def _refused(folder: Path | str, reason: str) -> str:
    return say(
        f"Cannot open the model in {folder}: {reason}. Give a folder of an encoder saved by transformers",
        f"无法打开 {folder} 中的模型：{reason}。请给出由 transformers 保存的编码器文件夹",
    )
