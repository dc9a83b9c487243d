"""The embeddings of words as they are looked up: where they come from, and how to add something to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.models.packed import Packed


def word_embeddings(backbone: nn.Module) -> Any:
    """The layer that turns token ids into embeddings: the one in use, where only used rows are trained.

    Raises:
        WeitiaoError: the model reads no words.
    """
    inner: Any = getattr(backbone, "inner", backbone)  # virtual tokens wrap an encoder
    table = getattr(getattr(inner, "embeddings", None), "word_embeddings", None)
    if table is None and hasattr(inner, "model"):
        table = inner.model.get_input_embeddings()
    if table is None:
        raise WeitiaoError(
            say(
                "Adversarial objectives move the embeddings of words, and this model reads none: leave them out",
                "对抗训练要扰动词向量，而该模型没有词向量：请去掉这类目标",
            )
        )
    return table


def check_width(backbone: Any) -> None:
    """Refuse to add embeddings of the hidden size to those of words where words have another one, as in small ELECTRA.

    Raises:
        WeitiaoError: they do.
    """
    width, size = word_embeddings(backbone).weight.shape[1], backbone.shape.hidden_size
    if width != size:
        raise WeitiaoError(
            say(
                f"--knowledge-as embeddings: this model's words have {width} numbers and its layers {size}: take "
                "--knowledge-as text",
                f"--knowledge-as embeddings：该模型词向量为 {width} 维，而各层为 {size} 维：请改用 --knowledge-as text",
            )
        )


@contextmanager
def moved(backbone: nn.Module, packed: Packed, noise_TD: Tensor) -> Iterator[None]:
    """Within it, ``noise_TD`` is added to the words' embeddings as they are looked up.

    The table itself is never written to, so afterwards it is what it was, to the bit.
    """
    groups = iter(packed.groups)

    def add(module: nn.Module, inputs: Any, words: Tensor) -> Tensor:
        if words.ndim == 2:  # the packed encoder: one flat row
            return words + noise_TD
        group = next(groups)  # the others: one padded rectangle [B, L, E] after the other
        rows = noise_TD[group.first : group.last]
        if group.real_t is not None:
            rows = rows.new_zeros(group.batch * group.length, rows.shape[1]).index_copy(0, group.real_t, rows)
        return words + rows.view(words.shape)

    hook = word_embeddings(backbone).register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
