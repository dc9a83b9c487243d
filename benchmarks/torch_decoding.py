"""Writing in torch, tokens a second at batch 1 and 8, against ``transformers.generate``, both in fp32."""

import argparse
import os
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from benchmarks import harness
from benchmarks.decoding import MODEL, NEW_TOKENS, peer
from benchmarks.harness import Entry, as_range, ratio, spread

PROMPTS = (
    "The history of the city of Rome begins with",
    "The three most important things about machine learning are:\n1.",
    "Once upon a time there was a small",
    "def read_lines(path):\n    ",
    "Question: Why is the sky blue?\nAnswer:",
    "Water boils at 100 degrees, and",
    "Dear customer,\n",
    "In the middle of the nineteenth century",
)


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """One prompt at a time, two of them; and eight of different lengths at once."""
    threads = len(os.sched_getaffinity(0))
    for batch, count in ((1, 2), (8, 8)):
        config = {
            "model": MODEL,
            "batch": batch,
            "prompts": list(PROMPTS[:count]),
            "new_tokens": NEW_TOKENS,
            "rounds": options.rounds or 4,
            "threads": threads,
            "precision": "fp32 on both sides",
            "timed": "reading the prompts and writing the tokens, greedy; loading is not",
        }
        yield Entry(f"{MODEL}-batch-{batch}-{threads}-threads", config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Both sides in processes of their own, A B A B."""
    arguments = (config["model"], config["prompts"], config["batch"])
    with harness.sides("weitiao", "transformers") as (weitiao, transformers):
        calls = {
            "weitiao": lambda: weitiao(ours, *arguments),
            "transformers": lambda: transformers(theirs, *arguments),
        }
        for call in calls.values():  # once, to load and to warm up
            call()
        found = harness.interleave(calls, config["rounds"])
    rates = {side: [rate for rate, _ in runs] for side, runs in found.items()}
    mine, reference = (found[side][0][1] for side in ("weitiao", "transformers"))
    same = sum(
        a == b for one, other in zip(mine, reference, strict=True) for a, b in zip(one, other, strict=True)
    )
    summary = {f"{side} tokens/s": as_range(spread(values)) for side, values in rates.items()}
    summary |= {
        "x transformers": as_range(ratio(rates["weitiao"], rates["transformers"])),
        "same tokens": f"{same} of {len(config['prompts']) * NEW_TOKENS}",
    }
    return {"summary": summary, "rates": rates}


@cache
def opened(name: str) -> tuple[Any, Any]:
    """Prompts and model, kept open in their process."""
    import torch

    from weitiao.models.decoder import open_decoder
    from weitiao.models.decoding import Decoding
    from weitiao.models.known import resolve_model
    from weitiao.tasks._prompts import open_prompts

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    folder = resolve_model(name).path
    return open_prompts(folder), Decoding(open_decoder(folder))


def ours(name: str, texts: list[str], batch: int) -> tuple[float, list[list[int]]]:
    """Tokens a second over all prompts, and the tokens; an end token ends nothing on either side."""
    from weitiao.generation.sampling import Sampling
    from weitiao.generation.writing import Writing, write

    prompts, decoding = opened(name)
    start, found = time.perf_counter(), []
    for first in range(0, len(texts), batch):
        ids = [prompts.encode(text) for text in texts[first : first + batch]]
        writings = [Writing(prompts.tokenizer, one, Sampling(NEW_TOKENS), (), NEW_TOKENS) for one in ids]
        found += [one.ids for one in write(decoding, ids, writings)]
    return len(texts) * NEW_TOKENS / (time.perf_counter() - start), found


def theirs(name: str, texts: list[str], batch: int) -> tuple[float, list[list[int]]]:
    """The same in ``transformers``, padded on the left as it wants it."""
    tokenizer, model = peer(name)
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    start, found = time.perf_counter(), []
    for first in range(0, len(texts), batch):
        given = tokenizer(texts[first : first + batch], return_tensors="pt", padding=True)
        made = model.generate(
            **given, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0
        )
        found += made[:, given.input_ids.shape[1] :].tolist()
    return len(texts) * NEW_TOKENS / (time.perf_counter() - start), found
