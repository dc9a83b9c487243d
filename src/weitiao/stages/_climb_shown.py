"""What a climb's page shows beside scores: what the models say, and formulas checked on them."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core import catalogue
from weitiao.core.events import Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.core.runs import read_json, write_json
from weitiao.data.pictures import decode, png_uri
from weitiao.data.readers import read_splits
from weitiao.reporting.page import main_split
from weitiao.runtime.items import columns_of
from weitiao.stages._climb import Rung, Step
from weitiao.stages._climb_data import DATA, questions
from weitiao.stages._predictor import Run
from weitiao.tasks.base import softmax

DIGITS, TEXTS, ASKED, LIKELIEST = 12, 6, 4, 5  # shown of each
TEMPERATURES = (0.25, 0.5, 1.0, 2.0)
Found = dict[str, Any]


def shown(rungs: Sequence[Rung], folder: Path) -> Generator[Event, None, Found]:
    """Everything that the page is made of; also kept as ``climb.json``. Paths in it are relative to the folder."""
    found: list[Found] = []
    for number, rung in enumerate(rungs):
        yield ProgressEvent(say("gathering what was learnt", "汇总结果"), number, len(rungs))
        entry: Found = {"name": rung.name, "runs": [_figures(step, folder) for step in rung.steps]}
        entry |= EXTRAS[rung.name](rung.steps)
        found.append(entry)
    yield ProgressEvent(say("gathering what was learnt", "汇总结果"), len(rungs), len(rungs))
    climbed = {"format": 1, "rungs": found}
    write_json(folder / "climb.json", climbed)
    return climbed


def _figures(step: Step, folder: Path) -> Found:
    """What one run scored and cost."""
    metrics = read_json(step.folder / "metrics.json")
    report = metrics["evaluation"][main_split(metrics)]
    monitor = report["monitor"]
    return {
        "folder": str(step.folder.relative_to(folder)),
        "title": list(step.title),
        "monitor": monitor,
        "score": report["scores"][monitor],
        "interval": report["intervals"].get(monitor),
        "baseline": report["baseline"].get(monitor),
        "seconds": metrics["cost"]["actual_seconds"],
        "trained_parameters": metrics["model"]["trained_parameters"],
        "weights_bytes": metrics["model"]["weights_bytes"],
        "rows": metrics["data"]["train"]["rows"],
    }


def _tested(step: Step, count: int) -> tuple[Run, Any, list[dict[str, Any]]]:
    """A run, the first rows of its test part as records, and its answers to them."""
    run = Run(step.folder)
    rows = read_splits(Path(step.values["data"]))["test"].rows
    records = [
        run.task.example(row) | {"row_number": n}
        for n, row in enumerate(rows.select(range(min(count, len(rows)))))
    ]
    return run, records, run.answer(records)


def _digits(steps: Sequence[Step]) -> Found:
    """Digits with what is said of them, the errors, and the loss of one with its gradient."""
    run, records, answers = _tested(steps[0], DIGITS)
    encoded, outputs = run.outputs(records)
    predictions = run.task.predictions(outputs, encoded, columns_of(records), run.answers)
    pictures = predictions.extra["pictures"]
    digits = [
        {"picture": pictures[n], "said": answer["label"], "score": answer["score"], "gold": record["label"]}
        for n, (record, answer) in enumerate(zip(records, answers, strict=True))
    ]
    report = read_json(steps[0].folder / "metrics.json")["evaluation"]["test"]
    worst = [
        {
            "picture": e["picture"],
            "said": e["predicted"],
            "score": e["probability_predicted"],
            "gold": e["gold"],
        }
        for e in report["worst_errors"][:DIGITS]
    ]
    # The least sure of those shown: the loss of a sure answer is too small to look at.
    unsure = min(range(len(digits)), key=lambda n: digits[n]["score"])
    return {
        "digits": digits,
        "errors": worst,
        "gradient": {
            "picture": digits[unsure]["picture"],
            **gradient_check(outputs[unsure], run.answers.names, digits[unsure]["gold"]),
        },
    }  # fmt: skip


def gradient_check(logits: np.ndarray, names: list[str], gold: str) -> Found:
    """Cross-entropy of one example and its gradient: by the formula p - [k = y], and by autograd of the objective."""
    import torch

    z = torch.tensor(np.asarray(logits, np.float64), requires_grad=True)
    target = names.index(gold)
    loss = catalogue.member("objectives", "cross_entropy")().loss_sum(z[None], torch.tensor([target]))
    loss.backward()
    assert z.grad is not None
    p = softmax(z.detach().numpy())
    formula = p - np.eye(len(names))[target]
    return {
        "gold": gold, "names": names, "logits": z.tolist(), "probabilities": p.tolist(), "formula": formula.tolist(),
        "autograd": z.grad.tolist(), "loss_formula": float(-np.log(p[target])), "loss": loss.item(),
        "difference": float(np.abs(formula - z.grad.numpy()).max()),
    }  # fmt: skip


def _texts(steps: Sequence[Step]) -> Found:
    """Some texts with what the last of the models says of them."""
    _, records, answers = _tested(steps[-1], TEXTS)
    return {
        "texts": [
            {
                "text": record["text"],
                "said": answer["label"],
                "score": answer["score"],
                "gold": record["label"],
            }
            for record, answer in zip(records, answers, strict=True)
        ]
    }


def _spelled(steps: Sequence[Step]) -> Found:
    """One text, token by token: its loss by the formula, and by the objective in the program."""
    import torch

    from weitiao.data.encode import load_tokenizer
    from weitiao.models.decoder import open_decoder
    from weitiao.models.packed import pack

    folder = steps[0].folder / "model"
    decoder, tokenizer = open_decoder(folder), load_tokenizer(folder)
    text = _text_of(steps)
    ids = np.array(tokenizer.encode(text).ids)
    with torch.no_grad():
        logits_TV = decoder.logits(decoder(pack([ids])))[:-1].double()
    loss = catalogue.member("objectives", "causal_lm")().loss_sum(logits_TV, torch.from_numpy(ids[1:])).item()
    p = softmax(logits_TV.numpy())[np.arange(len(ids) - 1), ids[1:]]
    pieces = [tokenizer.decode([token]) for token in ids.tolist()]
    rest_bytes = len(text.encode()) - len(
        tokenizer.id_to_token(int(ids[0]))
    )  # of byte-level pieces, a mark is a byte
    return {
        "spelled": {
            "text": text, "first": pieces[0], "pieces": pieces[1:], "probabilities": p.tolist(),
            "loss": loss / len(p), "loss_formula": float(-np.log(p).mean()),
            "difference": float(abs(loss + np.log(p).sum())),
            "bits_per_byte": float(-np.log2(p).sum() / rest_bytes),
        }
    }  # fmt: skip


def _text_of(steps: Sequence[Step]) -> str:
    """A text that no rung has learnt from: the first of the tested ones."""
    rows = read_splits(steps[0].folder.parents[1] / DATA / "texts")["test"].rows
    return str(rows[0]["text"])


def _low_rank(steps: Sequence[Step]) -> Found:
    """One layer's change of low rank: its shape, its numbers, the rank of the product."""
    from safetensors.numpy import load_file

    tensors = load_file(steps[0].folder / "model" / "adapter_model.safetensors")
    pairs = {name.split(".lora_A")[0]: tensor for name, tensor in tensors.items() if ".lora_A" in name}
    name, a_RI = next(iter(pairs.items()))
    b_OR = next(tensor for key, tensor in tensors.items() if key.startswith(f"{name}.lora_B"))
    return {
        "low_rank": {
            "layer": name.removeprefix("base_model.model."),
            "a": list(a_RI.shape), "b": list(b_OR.shape),
            "rank": int(np.linalg.matrix_rank(b_OR.astype(np.float64) @ a_RI.astype(np.float64))),
            "layers": len(pairs), "numbers": int(sum(tensor.size for tensor in tensors.values())),
        }
    }  # fmt: skip


def _asked(steps: Sequence[Step]) -> Found:
    """Pictures of digits, and what a language model that sees them answers in words."""
    run = Run(steps[0].folder)
    rows = read_splits(Path(steps[0].values["data"]))["test"].rows
    kinds = steps[0].values["questions"].split(",")
    shown_rows = rows.select(range(min(ASKED, len(rows))))
    asked = [(row, *each) for row in shown_rows for each in questions(row["label"], kinds)]
    items = [{"image": row["image"], "question": question} for row, question, _ in asked]
    pictures = [png_uri(decode(row["image"], 28, 1)[0], 28, 1) for row, _, _ in asked]
    return {
        "asked": [
            {
                "picture": picture,
                "question": question,
                "said": answer["answer"],
                "score": answer["score"],
                "gold": gold,
            }
            for picture, (_, question, gold), answer in zip(pictures, asked, run.predict(items), strict=True)
        ]
    }


def _chats(steps: Sequence[Step]) -> Found:
    """What the model answers, and how likely it finds the beginnings of an answer at several temperatures."""
    import torch

    from weitiao.models.packed import pack
    from weitiao.tasks._generation import Generation

    run, records, answers = _tested(steps[0], TEXTS)
    assert isinstance(run.task, Generation)
    prompts = run.tokenizer
    ids = np.array(run.task.asked(prompts, records[0], 1024))
    decoder = run.model.backbone
    with torch.no_grad():
        scores_V = decoder.logits(decoder(pack([ids]))[-1:])[0].double().numpy()
    best = np.argsort(-scores_V, kind="stable")[:LIKELIEST]
    return {
        "texts": [
            {"text": record["text"], "said": answer["generated_text"], "gold": record["answer"]}
            for record, answer in zip(records, answers, strict=True)
        ],
        "temperatures": {
            "tokens": [prompts.tokenizer.decode([token]) for token in best.tolist()],
            "rows": [
                [temperature, softmax(scores_V / temperature)[best].tolist()] for temperature in TEMPERATURES
            ],
        },
    }


EXTRAS = {
    "mnist": _digits, "pretraining": _spelled, "finetuning": _texts, "efficient": _low_rank, "bridge": _asked,
    "generation": _chats,
}  # fmt: skip
