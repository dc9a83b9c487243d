"""Drop layers, or merge them into those that stay / 删除若干层，或把它们并入保留的层."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from weitiao.compression._rebuild import layer_names, rebuild
from weitiao.compression.base import Compression, Steps, Subject
from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.training.batches import Batches, in_order

ROWS = 256


@dataclass
class Layers(Compression):
    """Fewer layers. ``measured`` keeps those that change the hidden states most (Men et al. 2024, "ShortGPT")."""

    keep_layers: int = option(0, "layers that stay (0: half)", "保留的层数（0：一半）", least=0)
    layer_choice: str = option(
        "measured",
        "which stay: those that change most, or evenly spread",
        "保留哪些层：实测变化最大的，或均匀分布的",
        choices=("measured", "even"),
    )
    these_layers: list[str] = option(
        [], "the layers that stay by number, from 0", "直接指定保留的层号（从 0 起）"
    )
    layer_way: str = option(
        "drop",
        "drop the others, or merge them into the layer below",
        "其余的层：删除，或并入其下方保留的层",
        choices=("drop", "merge"),
    )

    def apply(self, subject: Subject) -> Steps:
        encoder = subject.encoder
        count = encoder.shape.num_hidden_layers
        keep = self.keep_layers or max(count // 2, 1)
        influence: list[float] = []
        if self.these_layers:
            kept = self._given(count)
        elif keep > count:
            raise WeitiaoError(
                say(
                    f"--keep-layers is {keep}; the model has {count} layers",
                    f"--keep-layers 为 {keep}，而模型只有 {count} 层",
                )
            )
        elif self.layer_choice == "even":
            kept = evenly(count, keep)
        else:
            for item in _influences(subject):
                if isinstance(item, Event):
                    yield item
                else:
                    influence = item
            kept = sorted(sorted(range(count), key=lambda number: -influence[number])[:keep])
        old = encoder.state_dict()
        tensors = {name: tensor for name, tensor in old.items() if not name.startswith("encoder.layer.")}
        for place, number in enumerate(kept):
            gone = range(number + 1, kept[place + 1] if place + 1 < len(kept) else count)
            merged = list(gone) if self.layer_way == "merge" else []
            tensors |= _layer(old, number, merged, place)
        rebuild(subject.model, tensors, num_hidden_layers=len(kept))
        facts = {"layers_before": count, "layers_after": len(kept), "kept": kept}
        return facts | ({"influence": [round(value, 4) for value in influence]} if influence else {})

    def _given(self, count: int) -> list[int]:
        try:
            kept = sorted({int(number) for number in self.these_layers})
        except ValueError:
            kept = []
        if not kept or kept[0] < 0 or kept[-1] >= count:
            given = ",".join(map(str, self.these_layers))
            raise WeitiaoError(
                say(
                    f"--these-layers is {given}: whole numbers from 0 to {count - 1} are wanted",
                    f"--these-layers 为 {given}：应是 0 到 {count - 1} 之间的整数",
                )
            )
        return kept


def evenly(count: int, keep: int) -> list[int]:
    """``keep`` of ``count`` layers, evenly spread, the topmost among them: a head was trained on its states."""
    return [round((place + 1) * count / keep) - 1 for place in range(keep)]


def _layer(old: dict[str, Tensor], number: int, merged: list[int], place: int) -> dict[str, Tensor]:
    """A layer's tensors under its new number; of merged layers, their differences to it are added
    (Yang et al. 2024, "LaCo", equation 1)."""
    prefix = layer_names(number)
    found = {}
    for name, tensor in old.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            extra = sum(
                (old[layer_names(other) + rest] - tensor for other in merged), torch.zeros_like(tensor)
            )
            found[layer_names(place) + rest] = tensor + extra
    return found


def _influences(subject: Subject) -> Iterator[Event | list[float]]:
    """1 - cosine of what goes into each layer and what comes out, averaged over tokens; the last item is the result."""
    model, encoded = subject.model, subject.labelled(ROWS)
    layers = list(subject.encoder.encoder["layer"])
    batches = Batches(encoded, 32, subject.seed, first_position=model.first_position)
    total, tokens = [0.0] * len(layers), 0
    groups = list(in_order(encoded))
    for done, rows in enumerate(groups):
        yield ProgressEvent(say("weighing layers", "衡量各层的重要性"), done, len(groups))
        packed = batches.batch(rows).packed
        with torch.inference_mode():
            x_TD = subject.encoder.embeddings(packed, None)
            for number, layer in enumerate(layers):
                y_TD = layer(x_TD, packed, None)
                total[number] += float((1 - torch.cosine_similarity(x_TD, y_TD, dim=-1)).sum())
                x_TD = y_TD
        tokens += len(packed.ids_T)
    yield ProgressEvent(say("weighing layers", "衡量各层的重要性"), len(groups), len(groups))
    yield [value / max(tokens, 1) for value in total]
