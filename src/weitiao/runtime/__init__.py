"""Prediction without torch: numpy, tokenizers and an engine. ``load`` opens a bundle.

>>> from weitiao.runtime import load
>>> load("deploy/reviews").predict(["物流很快"])  # doctest: +SKIP
[{'label': 'positive', 'score': 0.98}]
"""

from pathlib import Path
from typing import Any

from weitiao.runtime.bundle import Bundle, open_bundle

__all__ = ["Bundle", "load", "open_bundle"]


def load(
    folder: str | Path,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    brief: bool = False,
) -> Any:
    """A bundle, ready to answer: a ``Predictor``, or a ``Decoder`` where it holds a language model.

    Args:
        engine: ``onnxruntime``, ``openvino``, or ``auto``: whichever of those installed was measured to be faster.
        precision: ``fp32``, ``bf16`` where engine and processor have it, or ``auto``.
        threads: at most so many; 0: one for each core.
        brief: for a few texts only: be ready sooner, even if each batch takes longer.

    Raises:
        WeitiaoError: it is no bundle, a file of it is not what the manifest says, or an unknown engine.
    """
    bundle = open_bundle(folder)
    if bundle.manifest["kind"] == "decoder":
        from weitiao.runtime.decoder import Decoder

        return Decoder(bundle, engine=engine, precision=precision, threads=threads)
    from weitiao.runtime.predictor import Predictor

    return Predictor(bundle, engine=engine, precision=precision, threads=threads, brief=brief)
