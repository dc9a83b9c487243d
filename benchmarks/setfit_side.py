"""SetFit's side of ``few_shot``: run by another interpreter, in whose environment setfit is installed.

Reads its settings as JSON from standard input and writes the scores and seconds as JSON to the file they name. Uses
nothing of Weitiao, and setfit's defaults but for ``max_steps``.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Train and predict. The clock runs while ``Trainer.train`` does: the pairs, the body, the logistic head."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, models
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression
    from transformers.utils import logging

    settings = json.load(sys.stdin)
    torch.set_num_threads(settings["threads"])
    logging.set_verbosity_error()
    train, test = rows(settings["data"]), rows(settings["test_data"])
    number = {name: place for place, name in enumerate(sorted({row["label"] for row in train}))}
    train, test = ([row | {"label": number[row["label"]]} for row in part] for part in (train, test))
    # The folder holds a plain encoder: mean pooling is what both models were trained with.
    encoder = models.Transformer(settings["folder"], max_seq_length=settings["max_length"])
    body = SentenceTransformer(
        modules=[encoder, models.Pooling(encoder.get_word_embedding_dimension())], device="cpu"
    )
    model = SetFitModel(model_body=body, model_head=LogisticRegression())
    arguments = TrainingArguments(
        output_dir=settings["scratch"],
        seed=settings["seed"],
        max_steps=settings["max_steps"],
        report_to="none",
        save_strategy="no",
        show_progress_bar=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(train))
    began, cpu_began = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    found = model.predict([row["text"] for row in test])
    right = [int(guess) == row["label"] for guess, row in zip(found, test, strict=True)]
    steps = int(trainer.st_trainer.state.global_step)
    result = {
        "accuracy": sum(right) / len(right),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": steps,
    }
    Path(settings["result"]).write_text(json.dumps(result), encoding="utf-8")


def rows(path: str) -> list[dict[str, Any]]:
    """A table of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
