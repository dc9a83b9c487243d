"""Saving a trained model, and the proof that what was saved predicts as what was trained."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from weitiao.core.config import settings_of
from weitiao.core.events import Event, NoteEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_folder, write_json
from weitiao.core.version import __version__
from weitiao.models.known import weights_hash
from weitiao.models.saving import DESCRIPTION, save_head, save_weights, transformers_class
from weitiao.stages._predictor import load_model
from weitiao.training.batches import Batches
from weitiao.training.engagement import same_outputs

if TYPE_CHECKING:
    from weitiao.stages._training import Training

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "sentencepiece.bpe.model",
    "chat_template.jinja", "generation_config.json",
)  # fmt: skip
PROBLEMS = {
    "classes": "single_label_classification",
    "labels": "multi_label_classification",
    "values": "regression",
}
COMPARED = 32  # texts whose logits are compared
COMPARED_TEXTS = 4  # the same where each token has as many logits as the vocabulary has pieces


def save(run: "Training") -> dict[str, Any]:
    """Write ``model/`` whole or not at all. Returns its description (see ``models.saving``)."""
    config, source = run.config, run.source
    description = {
        "format": 1,
        "weitiao": __version__,
        "task": run.task.name,
        "task_options": settings_of(config, "tasks", config.task) | run.task.carried(),
        "answers": run.answers.as_json(),
        "head": run.head_kind,
        "max_length": config.max_length,
        "tuning": config.tuning,
        "tuning_options": settings_of(config, "tuning", config.tuning),
        "base": {"name": config.model, "route": source.route, "sha256": weights_hash(source.path)},
        "transformers_class": "" if run.tuning.saves_adapter else transformers_class(run.model),
    }
    with atomic_folder(run.folder / "model") as new:
        if run.tuning.saves_adapter:
            run.tuning.save_adapter(run.model, new, config.model)
            save_head(new, run.model.head)
        else:
            save_weights(new, run.model, run.answers.names, PROBLEMS.get(run.answers.kind, ""))
        for file in TOKENIZER_FILES:
            if (source.path / file).exists():
                shutil.copy(source.path / file, new / file)
        run.task.keep(run.tokenizer, new)
        if run.neighbours is not None:
            run.neighbours.save(new)
        write_json(new / DESCRIPTION, description)
    return description


def verify(run: "Training", description: dict[str, Any]) -> Iterator[Event]:
    """Read the saved model back: it must give the same logits as the one in memory.

    Raises:
        WeitiaoError: it does not.
    """
    run.saved = load_model(run.folder / "model", description)
    encoded = run.data.encoded.get("test") or run.data.encoded["train"]
    compared = COMPARED_TEXTS if run.head_kind["type"] == "language" else COMPARED
    batch = Batches(encoded, compared, 0, first_position=run.model.first_position).batch(
        np.arange(min(compared, len(encoded)))
    )
    with torch.inference_mode():
        trained, saved = (model(batch.packed, batch.marks_T) for model in (run.model, run.saved))
    run.saved_difference = same_outputs(trained, saved)
    yield NoteEvent(say("The saved model predicts as the trained one", "保存后的模型与训练时预测一致"))
