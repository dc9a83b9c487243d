"""What a language model is worth on held-out text: perplexity, bits per byte, accuracy; and what a guess is worth.

Bits per byte compare across tokenizers: -log2 p of the whole text over its bytes in UTF-8, a line end after each
document counted. Of a masked model, only the hidden tokens are predicted, so it is the bits of a hidden token over the
bytes of an average one: to be compared among masked models only.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from weitiao.data.token_stream import Blocks
from weitiao.evaluation._ngram import bits
from weitiao.training.corpus_batches import CorpusBatches

SEED = 20_250_101  # what is hidden in held-out text is the same each time
RESAMPLES = 500
NGRAM_TOKENS = 30_000_000  # a longer training part takes minutes and gigabytes to count


def measure(
    model: Any, batches: CorpusBatches, blocks: Blocks, autocast: Callable[[], Any] = contextlib.nullcontext
) -> dict[str, Any]:
    """``{"scores", "intervals", "tokens"}`` over held-out blocks; intervals at 95 % by resampling batches of blocks."""
    was_training = model.training
    model.eval()
    tokens = batches.micro * blocks.size
    made = CorpusBatches(
        blocks, batches.composed, SEED, batch_tokens=tokens, micro_tokens=tokens,
        first_position=batches.first_position, remap=batches.remap,
    )  # fmt: skip
    found = []
    try:
        with torch.inference_mode():
            for start in range(0, len(blocks), made.batch_size):
                rows = np.arange(start, min(start + made.batch_size, len(blocks)))
                for batch in made.drawn(rows, np.random.default_rng([SEED, start])):
                    batch = batch.to(next(model.parameters()).device.type)
                    with autocast():
                        hidden_RD = model.hidden(batch.packed, batch.marks_T, None)
                    targets = batch.targets
                    assert targets is not None
                    losses, right = model.head.scores(hidden_RD, targets)
                    token = targets >= 0
                    found.append(
                        [float(losses[token].sum()), float(right[token].sum()), float(token.sum()),
                         float(losses[~token].sum()), float(right[~token].sum()), float((~token).sum())]
                    )  # fmt: skip
    finally:
        model.train(was_training)
    sums = np.array(found)
    bytes_per_token = blocks.text_bytes / max(len(blocks.ids_T) - 1, 1)
    scores = _scores(sums.sum(0), bytes_per_token, made.composed.decoder)
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    resampled = [_scores(sums[rows].sum(0), bytes_per_token, made.composed.decoder) for rows in drawn]
    bounds = {
        name: np.percentile([each[name] for each in resampled], [2.5, 97.5]).tolist()
        for name in scores
        if len(sums) > 1 and all(name in each for each in resampled)
    }
    return {"scores": scores, "intervals": bounds, "tokens": int(sums[:, 2].sum())}


def _scores(sums: np.ndarray, bytes_per_token: float, decoder: bool) -> dict[str, float]:
    loss, right, tokens, _, pairs_right, pairs = sums
    scores = {}
    if tokens:
        scores["bits_per_byte"] = loss / tokens / np.log(2) / bytes_per_token
        scores["perplexity"] = float(np.exp(min(loss / tokens, 700)))
        scores["token_accuracy" if decoder else "masked_accuracy"] = right / tokens
    if pairs:
        scores["pair_accuracy"] = pairs_right / pairs
    return {name: float(value) for name, value in scores.items()}


def guess(train_ids: np.ndarray, held: Blocks, pieces: int, decoder: bool) -> dict[str, Any]:
    """What the pieces' frequencies alone are worth: each predicted as often as it stands in the training part."""
    counts = np.bincount(np.asarray(train_ids), minlength=pieces) + 0.01
    ids = np.asarray(held.ids_T[1:])
    loss = -np.log(counts[ids] / counts.sum()).mean()
    right = float((ids == counts.argmax()).mean())
    bytes_per_token = held.text_bytes / max(len(ids), 1)
    name = "token_accuracy" if decoder else "masked_accuracy"
    return {
        "bits_per_byte": float(loss / np.log(2) / bytes_per_token), "perplexity": float(np.exp(loss)), name: right,
        "answer": "p(piece)",
    }  # fmt: skip


def ngram(train_ids: np.ndarray, held: Blocks, tracked: Blocks, pieces: int, order: int) -> dict[str, Any]:
    """Bits per byte of a Kneser-Ney n-gram over the same tokens: of the held-out blocks, and of those that are tracked.

    ``tracked`` is the beginning of ``held``, whose first token no model is asked for.
    """
    *_, (_, each) = bits(np.asarray(train_ids), np.asarray(held.ids_T[1:]), pieces, order)

    def per_byte(blocks: Blocks) -> float:
        return float(each[: len(blocks.ids_T) - 1].sum() / max(blocks.text_bytes, 1))

    return {"order": order, "bits_per_byte": per_byte(held), "tracked": per_byte(tracked)}


def passed(events: Sequence[dict[str, Any]], name: str, level: float) -> dict[str, float] | None:
    """The first evaluation whose score is below a level: its step, and the seconds of training until then."""
    seconds = 0.0
    for event in events:
        if event["event"] == "step":
            seconds += event["tokens"] / event["tokens_per_second"]
        elif event["event"] == "evaluation" and event["scores"].get(name, level) < level:
            return {"step": event["step"], "seconds": seconds}
    return None
