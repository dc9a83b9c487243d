"""The ranges of a graph's activations over some texts, and how best to cut each into 255 steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from weitiao.compression._quantise import Group, Setting, per_column, to_uint8
from weitiao.data.encode import Encoded
from weitiao.engines.base import cores
from weitiao.runtime.batches import batches

KEPT_ROWS = 384  # tokens a settings' error is estimated on
STRENGTHS = (0.0, 0.5, 0.7, 0.85, 1.0)
CUTS = (1.0, 0.9, 0.75, 0.55)


@dataclass
class Seen:
    """What went into a group: the bounds, each channel's largest size ``[in]``, and some of the rows ``[n, in]``."""

    low: float
    high: float
    channel_I: np.ndarray
    rows_NI: np.ndarray


class Session:
    """A model in onnxruntime, fed with encoded texts. ``padding`` fills up the shorter ones of a batch."""

    def __init__(self, model: Any, padding: int) -> None:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = cores()
        settings.inter_op_num_threads = 1
        self.session = ort.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.padding = padding

    def outputs(self, encoded: Encoded, by_token: bool) -> list[np.ndarray]:
        """The head's output for each row of token ids; those of tokens lose their padding."""
        found: list[Any] = [None] * len(encoded.ids)
        for batch in batches(encoded, self.inputs, self.padding):
            (values,) = self.session.run(["outputs"], batch.inputs)
            for row, length, value in zip(batch.rows, batch.lengths, values, strict=True):
                found[row] = value[:length] if by_token else value
        return found

    def inside(self, encoded: Encoded, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The values of some tensors, ``[n, size]`` without padding, batch by batch."""
        for batch in batches(encoded, self.inputs, self.padding):
            real = np.arange(int(batch.lengths[0])) < batch.lengths[:, None]
            for name, value in zip(names, self.session.run(list(names), batch.inputs), strict=True):
                by_token = value.ndim == 3 and value.shape[:2] == real.shape
                yield name, value[real] if by_token else value.reshape(-1, value.shape[-1])


def with_outputs(model: Any, names: Sequence[str]) -> Any:
    """The model with further tensors among its outputs."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    found.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return found


def look(
    model: Any, wanted: Sequence[Group], encoded: Encoded, padding: int, seed: int = 0
) -> dict[str, Seen]:
    """What goes into each group over some texts, by the input's name."""
    names = [group.input for group in wanted]
    session = Session(with_outputs(model, names), padding)
    random = np.random.default_rng(seed)
    seen: dict[str, Seen] = {}
    for name, rows_nI in session.inside(encoded, names):
        chosen = random.choice(len(rows_nI), min(len(rows_nI), 64), replace=False)
        new = Seen(float(rows_nI.min()), float(rows_nI.max()), np.abs(rows_nI).max(0), rows_nI[chosen])
        old = seen.get(name)
        if old is not None:
            both = np.concatenate([old.rows_NI, new.rows_NI])
            if len(both) > KEPT_ROWS:
                both = both[random.choice(len(both), KEPT_ROWS, replace=False)]
            largest = np.maximum(old.channel_I, new.channel_I)
            new = Seen(min(old.low, new.low), max(old.high, new.high), largest, both)
        seen[name] = new
    return seen


def best_setting(
    model: Any, group: Group, seen: Seen, bits: int = 7, smooth: bool = True
) -> tuple[Setting, float]:
    """The setting with the least squared error of the group's outputs, and that error over the outputs' own size.

    Tried are several strengths of smoothing (Xiao et al. 2023, "SmoothQuant", equation 4: each channel of the input is
    divided by a factor that its row of the weights is multiplied with) and of cutting off the ends of the range.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight_IO = np.concatenate([numpy_helper.to_array(tensors[name]) for name in group.weights], 1)
    exact_NO = seen.rows_NI @ weight_IO
    best, least = Setting(seen.low, seen.high), np.inf
    for strength in STRENGTHS if smooth else (0.0,):
        factor_I = smoothing(seen.channel_I, weight_IO, strength) if strength else None
        rows_NI = seen.rows_NI if factor_I is None else seen.rows_NI / factor_I
        q_IO, scale_O = per_column(weight_IO if factor_I is None else weight_IO * factor_I[:, None], bits)
        rounded_IO = q_IO * scale_O
        bound = float((seen.channel_I if factor_I is None else seen.channel_I / factor_I).max())
        low, high = max(seen.low, -bound) if factor_I is None else -bound, bound
        if factor_I is not None:
            low, high = min(float(rows_NI.min()) * 1.1, 0.0), max(float(rows_NI.max()) * 1.1, 0.0)
        for cut in CUTS:
            setting = Setting(low * cut, high * cut, factor_I)
            error = float(np.square(_rounded(rows_NI, setting) @ rounded_IO - exact_NO).mean())
            if error < least:
                best, least = setting, error
    return best, least / max(float(np.square(exact_NO).mean()), 1e-12)


def smoothing(channel_I: np.ndarray, weight_IO: np.ndarray, strength: float) -> np.ndarray:
    """What each channel of the input is divided by, ``[in]``; their geometric mean is 1."""
    rows_I = np.maximum(np.abs(weight_IO).max(1), 1e-8)
    log_I = strength * np.log(np.maximum(channel_I, 1e-6)) - (1 - strength) * np.log(rows_I)
    return np.exp(np.clip(log_I - log_I.mean(), -7, 7)).astype(np.float32)


def _rounded(rows_NI: np.ndarray, setting: Setting) -> np.ndarray:
    """Values as they are after uint8."""
    scale, zero = to_uint8(setting.low, setting.high)
    return (np.clip(np.rint(rows_NI / scale) + zero, 0, 255) - np.float32(zero)) * scale
