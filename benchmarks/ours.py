"""Weitiao's side: what a user calls, measured from the events it yields."""

import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP = 2


def speed(settings: dict[str, Any]) -> dict[str, float]:
    """Train for some steps and stop. Timed between the ends of steps, packing included, after ``WARM_UP``.

    Args:
        settings: of ``weitiao finetune``, and ``steps``.
    """
    from weitiao.core.config import build
    from weitiao.stages import finetune as stage

    settings = dict(settings)
    steps = settings.pop("steps") + WARM_UP
    times, tokens, losses = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        config = build(stage.Config, {**settings, "output": str(Path(folder) / "run"), "dev_fraction": 0.0})
        events = stage.run(config)
        for event in events:
            values = event.as_json()
            if values["event"] != "step":
                continue
            times.append(time.perf_counter())
            tokens.append(values["tokens"])
            losses.append(values["loss"])
            if len(times) == steps:
                break
        events.close()
    return rate(times, tokens)


def rate(times: list[float], tokens: list[int]) -> dict[str, float]:
    """Real tokens a second after the warm-up, from the time at the end of each step."""
    seconds, count = times[-1] - times[WARM_UP - 1], sum(tokens[WARM_UP:])
    return {"tokens": count, "seconds": seconds, "tokens_per_second": count / seconds}


def gemm(settings: dict[str, Any]) -> float:
    """The rate of a bf16 matrix product of the model's own size, FLOP a second."""
    import torch

    from weitiao.core.device import gemm_flops_per_second

    return gemm_flops_per_second(
        torch.bfloat16, (2048, settings["hidden_size"], settings["intermediate_size"])
    )


def finetune(settings: dict[str, Any]) -> dict[str, Any]:
    """A whole fine-tuning run: ``{"scores", "losses", "seconds", "precision"}``."""
    import weitiao

    with tempfile.TemporaryDirectory() as folder:
        run = weitiao.finetune(output=Path(folder) / "run", show=False, dev_fraction=0.0, **settings)
        metrics = run.metrics
        losses = [event["loss"] for event in run.events if event["event"] == "step"]
    scores = {name: value for name, value in metrics["evaluation"]["test"]["scores"].items()}
    cost = metrics["cost"]
    seconds, precision = cost["actual_seconds"], metrics["environment"]["precision"]
    return {"scores": scores, "losses": losses, "seconds": seconds, "precision": precision}
