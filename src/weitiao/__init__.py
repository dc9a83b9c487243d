"""Weitiao (微调): fine-tune language models on an ordinary machine.

>>> import weitiao
>>> run = weitiao.finetune(data="reviews.csv", task="text-classification")  # doctest: +SKIP
>>> run.predict(["物流很快"])  # doctest: +SKIP
[{'label': 'positive', 'score': 0.98}]
"""

from typing import Any

from weitiao.core.version import __version__

__all__ = [
    "__version__",
    "compare",
    "ensemble",
    "evaluate",
    "export",
    "finetune",
    "generate",
    "load",
    "predict",
    "tune",
]


def __getattr__(name: str) -> Any:
    # Imported on use: ``import weitiao`` must not import torch.
    if name in __all__[1:]:
        from weitiao import api

        return getattr(api, name)
    raise AttributeError(f"module 'weitiao' has no attribute '{name}'")
