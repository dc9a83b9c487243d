"""Whether an exported language model still is the one in ``transformers``, in float32.

Scores are compared at every place of some prompts and of what the bundle wrote after them: if the reference, too,
prefers each of those tokens, it would have written the same.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

NEW_TOKENS = 64
LARGEST_DIFFERENCE = 1e-3  # of scores, where weights are kept in float32
LARGEST_RISE = 1.03  # of perplexity, where they are rounded
WINDOW, MOST_WINDOWS = 256, 16
PROMPTS = (
    "The history of the city begins with",
    "Question: Why is the sky blue?\nAnswer:",
    "def read_lines(path):\n    ",
    "Once upon a time there was a small",
    "The three most important things to remember are:\n1.",
    "Water boils at 100 degrees, and",
    "Dear customer,\n",
    "机器学习是",
)


@dataclass(frozen=True)
class Compared:
    """What the reference and the bundle said about the same tokens."""

    largest_difference: float
    same_choices: int
    choices: int
    same_answers: int
    loss_before: float
    loss_after: float
    tokens: int


def compare(decoder: Any, source: Path, texts: Sequence[str]) -> Compared:
    """Ask both; ``source`` is the folder that the bundle was made of, ``texts`` what perplexity is measured on."""
    import torch
    from transformers import AutoModelForCausalLM

    from weitiao.models.hub_encoder import quiet

    with quiet():
        reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()

    def scores_of(ids: Sequence[int]) -> np.ndarray:
        with torch.inference_mode():
            return reference(torch.tensor([ids])).logits[0].numpy()

    written = [_written(decoder, prompt) for prompt in PROMPTS]
    windows = _windows(decoder, texts) if texts else [prompt + answer for prompt, answer in written]
    largest, same, choices, answers = 0.0, 0, 0, 0
    for prompt, answer in written:
        ours, theirs = decoder.logits(prompt + answer), scores_of(prompt + answer)
        largest = max(largest, float(np.abs(ours - theirs).max()))
        wanted = theirs[len(prompt) - 1 : -1].argmax(-1)
        same += int((wanted == answer).sum())
        choices += len(answer)
        answers += int((wanted == answer).all())
    before = after = tokens = 0.0
    for ids in windows:
        before += _loss(scores_of(ids), ids)
        after += _loss(decoder.logits(ids), ids)
        tokens += len(ids) - 1
    return Compared(largest, same, choices, answers, before / tokens, after / tokens, int(tokens))


def _written(decoder: Any, prompt: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and the likeliest 64 after it (an end token ends nothing here)."""
    ids = decoder.encode(prompt)
    room = min(NEW_TOKENS, decoder.max_length - len(ids))
    return ids, decoder.continued(ids, room)


def _windows(decoder: Any, texts: Sequence[str]) -> list[list[int]]:
    """At most 16 stretches of 256 tokens of the texts, which follow each other."""
    size, ids = min(WINDOW, decoder.max_length), []
    for text in texts:
        ids += decoder.encode(text)
        if len(ids) >= size * MOST_WINDOWS:
            break
    found = [ids[start : start + size] for start in range(0, len(ids), size)][:MOST_WINDOWS]
    found = [window for window in found if len(window) > 1]
    if not found:
        raise WeitiaoError(say("The texts for perplexity are empty", "用于计算困惑度的文本为空"))
    return found


def _loss(logits_TV: np.ndarray, ids: Sequence[int]) -> float:
    """The summed negative log-likelihood, in nats, of each token after those before it."""
    scores = logits_TV[:-1].astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    right = scores[np.arange(len(ids) - 1), ids[1:]]
    return float((np.log(np.exp(scores).sum(-1)) - right).sum())


def make_certificate(found: Compared, bits: int, given: bool) -> dict[str, Any]:
    """What goes into ``certificate.json``."""
    before, after = math.exp(found.loss_before), math.exp(found.loss_after)
    return {
        "reference": "transformers, float32",
        "bits": bits,
        "prompts": len(PROMPTS),
        "new_tokens": NEW_TOKENS,
        "largest_logit_difference": found.largest_difference,
        "same_tokens": found.same_choices,
        "tokens": found.choices,
        "same_answers": found.same_answers,
        "perplexity": {
            "before": before,
            "after": after,
            "ratio": after / before,
            "tokens": found.tokens,
            "texts": "given" if given else "written by the model",
        },
        "tolerance": {"logit_difference": LARGEST_DIFFERENCE} if bits == 32 else {"ratio": LARGEST_RISE},
    }


def refuse_bad(certificate: dict[str, Any], bits: int) -> None:
    """Stop an export that is beyond the tolerance.

    Raises:
        WeitiaoError: other scores or another answer at 32 bits; with fewer, too high a perplexity.
    """
    difference, ratio = certificate["largest_logit_difference"], certificate["perplexity"]["ratio"]
    same = certificate["same_tokens"] == certificate["tokens"]
    fine = (difference <= LARGEST_DIFFERENCE and same) if bits == 32 else ratio <= LARGEST_RISE
    if not fine:
        raise WeitiaoError(
            say(
                f"The exported model is not the same: {json.dumps(certificate)}. Nothing was kept; try more --bits",
                f"导出的模型与原模型不一致：{json.dumps(certificate)}。未保留任何文件；请增大 --bits",
            )
        )


def summary(certificate: dict[str, Any]) -> str:
    """A certificate in one line."""
    perplexity = certificate["perplexity"]
    change = f"{perplexity['before']:.2f} -> {perplexity['after']:.2f}"
    same, total = certificate["same_answers"], certificate["prompts"]
    difference = certificate["largest_logit_difference"]
    return say(
        f"Same as in transformers: {same} of {total} answers, largest logit difference {difference:.2g}, "
        f"perplexity {change}",
        f"与 transformers 相同的回答：{same}/{total}，logit 最大差 {difference:.2g}，困惑度 {change}",
    )
