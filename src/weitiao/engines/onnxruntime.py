"""ONNX Runtime on the CPU / ONNX Runtime（CPU）."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.engines.base import Engine, cores, first_line


class OnnxRuntime(Engine):
    """One session; threads are its own and rest between calls."""

    name = "onnxruntime"
    library = "onnxruntime"

    def __init__(
        self, graph: Path, *, precision: str = "fp32", threads: int = 0, brief: bool = False
    ) -> None:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads or cores()
        settings.inter_op_num_threads = 1
        if (
            brief
        ):  # packing weights for the matrix products costs more than a few products in their plain layout
            settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.log_severity_level = 3  # warnings about what was not fused tell a user nothing
        try:
            self.session = ort.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors derive from no class of its own
            raise WeitiaoError(
                say(
                    f"onnxruntime cannot load {graph}: {first_line(error)}",
                    f"onnxruntime 无法加载 {graph}：{first_line(error)}",
                )
            ) from None
        self.precision = precision

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        return self.session.run(list(outputs), dict(inputs))

    def close(self) -> None:
        del self.session
