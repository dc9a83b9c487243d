"""Text generation from a bundle, tokens a second at batch 1, against ``transformers.generate`` in fp32."""

import argparse
import gzip
import json
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Entry, as_range, ratio, spread

MODEL = "SmolLM2-135M-Instruct"
NEW_TOKENS = 64
PROMPTS = (
    "The history of the city of Rome begins with",
    "The three most important things about machine learning are:\n1.",
)
TEXTS = harness.ROOT.parent / "shared" / "data" / "summaries" / "scitldr_test.jsonl.gz"


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Bits of a weight. Each is compared with the same reference, interleaved."""
    threads = len(os.sched_getaffinity(0))
    for bits in (32, 8, 4, 16):
        config = {
            "model": MODEL,
            "bits": bits,
            "new_tokens": NEW_TOKENS,
            "prompts": list(PROMPTS),
            "rounds": options.rounds or 4,
            "threads": threads,
            "perplexity_texts": "summaries/scitldr_test, 16 windows of 256 tokens",
            "timed": "reading the prompt and writing the tokens; loading is not",
        }
        name = f"{MODEL}-{bits}-bits-{threads}-threads"
        yield Entry(name, config, lambda config=config: compare(config))


def compare(config: dict[str, Any]) -> dict[str, Any]:
    """Both sides in processes of their own, A B A B."""
    folder = bundle(config["bits"])
    certificate = json.loads((folder / "certificate.json").read_text("utf-8"))
    with harness.sides("weitiao", "transformers") as (weitiao, transformers):
        calls = {
            "weitiao": lambda: weitiao(ours, str(folder)),
            "transformers": lambda: transformers(theirs, config["model"]),
        }
        for call in calls.values():  # once, to load and to warm up
            call()
        found = harness.interleave(calls, config["rounds"])
    rates = {side: [rate for rate, _ in runs] for side, runs in found.items()}
    mine, reference = (found[side][0][1] for side in ("weitiao", "transformers"))
    same = sum(
        a == b for one, other in zip(mine, reference, strict=True) for a, b in zip(one, other, strict=True)
    )
    perplexity = certificate["perplexity"]
    summary = {f"{side} tokens/s": as_range(spread(values)) for side, values in rates.items()}
    summary |= {
        "x transformers": as_range(ratio(rates["weitiao"], rates["transformers"])),
        "same tokens": f"{same} of {len(PROMPTS) * NEW_TOKENS}",
        "perplexity before, after": f"{perplexity['before']:.3f}, {perplexity['after']:.3f}",
        "perplexity ratio": f"{perplexity['ratio']:.4f}",
        "MB on disk": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
    }
    return {"summary": summary, "rates": rates, "certificate": certificate}


def bundle(bits: int) -> Path:
    """The exported bundle, made once."""
    folder = harness.SCRATCH / f"{MODEL}-{bits}"
    if not (folder / "bundle.json").exists():
        from weitiao.stages._export_decoder import export_decoder, find_decoder

        source = find_decoder(MODEL)
        with gzip.open(TEXTS, "rt", encoding="utf-8") as file:
            texts = [row if isinstance(row, str) else " ".join(row) for line in file
                     for row in [json.loads(line)["text"]]]  # fmt: skip
        for event in export_decoder(source, folder, name=MODEL, bits=bits, texts=texts):
            print(f"  {getattr(event, 'text', '')}", flush=True)
    return folder


@cache
def opened(folder: str) -> Any:
    """A bundle, kept open in its process."""
    from weitiao.runtime import load

    return load(folder)


def ours(folder: str) -> tuple[float, list[list[int]]]:
    """Tokens a second over all prompts, and the tokens."""
    decoder = opened(folder)
    start, found = time.perf_counter(), []
    for prompt in PROMPTS:
        found.append(decoder.continued(decoder.encode(prompt), NEW_TOKENS))
    return len(PROMPTS) * NEW_TOKENS / (time.perf_counter() - start), found


@cache
def peer(name: str) -> tuple[Any, Any]:
    """Tokenizer and model in ``transformers``, fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from weitiao.models.known import resolve_model

    folder = resolve_model(name).path
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(folder), model


def theirs(name: str) -> tuple[float, list[list[int]]]:
    """The same in ``transformers``: greedy, with its cache; an end token ends nothing on either side."""
    tokenizer, model = peer(name)
    start, found = time.perf_counter(), []
    for prompt in PROMPTS:
        given = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**given, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None)
        found.append(made[0, given.input_ids.shape[1] :].tolist())
    return len(PROMPTS) * NEW_TOKENS / (time.perf_counter() - start), found
