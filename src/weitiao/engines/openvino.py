"""OpenVINO on the CPU, also in bf16 / OpenVINO（CPU，支持 bf16）."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.engines.base import Engine, cores, first_line


class OpenVino(Engine):
    """One stream, so that all threads work on one batch. Calls from several threads wait for each other."""

    name = "openvino"
    library = "openvino"
    precisions = ("fp32", "bf16")

    def __init__(
        self, graph: Path, *, precision: str = "fp32", threads: int = 0, brief: bool = False
    ) -> None:
        from openvino import Core

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads or cores()),
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        }
        try:
            self.request = Core().compile_model(str(graph), "CPU", settings).create_infer_request()
        except Exception as error:  # the library raises plain RuntimeError
            raise WeitiaoError(
                say(
                    f"openvino cannot load {graph}: {first_line(error)}",
                    f"openvino 无法加载 {graph}：{first_line(error)}",
                )
            ) from None
        self.precision = precision
        self.lock = threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        with self.lock:
            found = self.request.infer(dict(inputs), share_inputs=True, share_outputs=False)
            return [found[name] for name in outputs]

    def close(self) -> None:
        del self.request
