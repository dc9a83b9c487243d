"""What a run will cost, measured on one micro-batch and counted up, before its first step."""

import time
from typing import Any

import torch

from weitiao.core.device import gpu_peak_bytes, peak_memory_bytes, resident_bytes
from weitiao.core.events import EstimateEvent
from weitiao.models.backbone import TextModel
from weitiao.training.loop import Parts, losses_of
from weitiao.training.optimizer import state_bytes
from weitiao.training.team import local

# Measured on CPUs: AdamW reads and writes seven numbers a parameter; 12 GB/s is a cautious rate for that.
OPTIMIZER_BYTES, OPTIMIZER_BYTES_PER_SECOND = 28, 12e9


def estimate(parts: Parts, evaluated_tokens: int) -> EstimateEvent:
    """Time one micro-batch of typical length forwards and backwards, and count up.

    Memory: what the process holds now, the gradients and the optimizer's state of the parameters that it trains, the
    activations of the measured micro-batch (fewer where layers are computed again), and at the end, beside the model
    in memory, the saved one: its file, what is read from it, and the model made of that. On a GPU: what the measured
    micro-batch took there, with weights and gradients, and the optimizer's state; all that is trained counts as main
    memory instead where it is kept there (``team``). The model comes back to main memory at the end.

    Args:
        evaluated_tokens: tokens that will be run forwards only, for evaluation.
    """
    lengths = parts.batches.encoded.lengths
    middle = lengths.argsort()[len(lengths) // 4 : len(lengths) // 4 + parts.batches.batch_size]
    batch = parts.batches.step(middle)[0]
    before = resident_bytes()
    forward, both = _time(parts, batch)
    parts.optimizer.zero_grad()
    parameters = [local(p) for group in parts.optimizer.param_groups for p in group["params"]]
    trained = sum(p.numel() for p in parameters)
    here = all(p.device.type == "cpu" for p in parameters)
    gpu = gpu_peak_bytes(parts.accelerator.device.type)
    tokens = parts.total_steps / parts.batches.steps_per_epoch * float(lengths.sum())
    seconds = tokens * both / batch.tokens / parts.team.size + evaluated_tokens * forward / batch.tokens
    seconds += parts.total_steps * trained * OPTIMIZER_BYTES / OPTIMIZER_BYTES_PER_SECOND
    peak = (
        before
        + here * (4 * trained + state_bytes(parts.optimizer))
        + max(resident_bytes() - before, 0)
        + (3 if parts.accelerator.device.type == "cpu" else 4) * whole_bytes(parts.model)
    )
    gpu += 0 if here else state_bytes(parts.optimizer)
    return EstimateEvent(memory_bytes=int(peak), seconds=seconds, gpu_bytes=gpu)


def actual(seconds: float, device: str) -> EstimateEvent:
    """What the run did cost."""
    return EstimateEvent(peak_memory_bytes(), seconds, actual=True, gpu_bytes=gpu_peak_bytes(device))


def whole_bytes(model: TextModel) -> int:
    """The size of the model as it is saved: with all of its embeddings, of which training may hold those in use."""
    rest = sum(_plain_bytes(p) for n, p in model.named_parameters() if "word_embeddings" not in n)
    shape = model.backbone.shape
    return rest + 4 * getattr(shape, "vocab_size", 0) * shape.hidden_size


def _plain_bytes(parameter: torch.Tensor) -> int:
    """A parameter's size as it is saved; of one that is held in 4 bits, that of its plain layer in fp32."""
    held = getattr(parameter, "quant_state", None)
    return 4 * held.shape.numel() if held is not None else parameter.numel() * parameter.element_size()


def _time(parts: Parts, batch: Any) -> tuple[float, float]:
    """Seconds of a forward pass, and of forward and backward; the best of some, the first being slow."""
    forwards, boths = [], []
    for _ in range(4):
        parts.dropout.restart(0)
        start = time.perf_counter()
        middles = []
        for loss in losses_of(parts, batch):
            middles.append(time.perf_counter())
            loss.backward()
        boths.append(time.perf_counter() - start)
        forwards.append(middles[0] - start)
    torch.manual_seed(parts.seed)
    return min(forwards), min(boths)
