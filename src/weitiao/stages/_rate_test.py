"""The learning-rate range test (Smith 2017, "Cyclical learning rates"): a short run whose rate rises each step.

The rate rises by a constant factor from step to step (as in fastai), and the smoothed loss is watched: it falls, levels
off, and bursts. Suggested is the rate at which it falls most steeply, and never more than a tenth of that at its lowest
point. Nothing that is trained here is kept.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, write_json

LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 100  # rates, and steps between them
BURST = 4.0  # times the lowest smoothed loss so far: there is nothing more to see
SMOOTHING = 0.9  # of the running mean of the losses


def rate_test(config: Any, folder: Path) -> Iterator[Event]:
    """Run the test; writes ``learning-rate.json`` and ``learning-rate.html``. Ends in a ``ResultEvent``.

    Raises:
        WeitiaoError: the method takes no steps, or the loss never falls.
    """
    from weitiao.stages._training import Training
    from weitiao.training.loop import step

    training = Training(dataclasses.replace(config, schedule="constant", warmup_ratio=0.0), folder)
    yield from training.ready()
    if not training.epochs:
        raise WeitiaoError(
            say(f"--tuning {config.tuning} takes no steps, so it has no learning rate",
                f"--tuning {config.tuning} 不逐步训练，没有学习率")
        )  # fmt: skip
    parts = training.make_parts()
    parts.hooks.begin(parts.model, STEPS)
    scales = [group["lr"] / parts.optimizer.param_groups[0]["lr"] for group in parts.optimizer.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    what = say("raising the rate", "逐步升高学习率")
    for number in range(STEPS):
        epoch, place = divmod(number, parts.batches.steps_per_epoch)
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
        for group, scale in zip(parts.optimizer.param_groups, scales, strict=True):
            group["lr"] = rate * scale
        yield ProgressEvent(what, number, STEPS)
        try:
            event = step(parts, parts.batches.epoch(epoch)[place], number)
        except WeitiaoError:  # the loss is no longer finite: the end of the test
            break
        rates.append(rate)
        losses.append(event.loss)
        if losses[-1] > BURST * min(smoothed(losses)):
            break
    yield ProgressEvent(what, STEPS, STEPS)
    yield from _conclude(config, folder, rates, losses)


def _conclude(config: Any, folder: Path, rates: list[float], losses: list[float]) -> Iterator[Event]:
    from weitiao.reporting.search import rate_page

    rate = suggestion(rates, losses)
    smooth = smoothed(losses)
    found = {"suggestion": rate, "rates": rates, "losses": losses, "smoothed": smooth, "tuning": config.tuning,
             "model": config.model, "batch_size": config.batch_size}  # fmt: skip
    write_json(folder / "learning-rate.json", found)
    with atomic_file(folder / "learning-rate.html") as file:
        file.write(rate_page(folder.resolve().name, found))
    lowest = rates[smooth.index(min(smooth))]
    yield NoteEvent(
        say(
            f"The loss falls from {smooth[0]:.3f} to {min(smooth):.3f}, lowest at a rate of {lowest:.1e}",
            f"损失由 {smooth[0]:.3f} 降至 {min(smooth):.3f}，最低点在学习率 {lowest:.1e} 处",
        )
    )
    text = say(
        f"Try --learning-rate {rate:.1e}   curve: {folder / 'learning-rate.html'}",
        f"建议 --learning-rate {rate:.1e}   曲线：{folder / 'learning-rate.html'}",
    )
    yield ResultEvent(str(folder), {"text": text, **found})


def smoothed(losses: Sequence[float]) -> list[float]:
    """A running mean without a start-up bias."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return found


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate where the smoothed loss falls most steeply by the rate's logarithm, or a tenth of the lowest point's.

    Raises:
        WeitiaoError: it never falls.
    """
    smooth = smoothed(losses)
    bottom = smooth.index(min(smooth)) if smooth else 0
    if bottom < 2:
        raise WeitiaoError(
            say(
                "The loss does not fall at any rate: look at the data, or at the model that is being trained",
                "任何学习率下损失都不下降：请检查数据或所训练的模型",
            )
        )
    slopes = [
        (smooth[place + 1] - smooth[place]) / math.log(rates[place + 1] / rates[place])
        for place in range(bottom)
    ]
    steepest = rates[slopes.index(min(slopes))]
    return min(steepest, rates[bottom] / 10)
