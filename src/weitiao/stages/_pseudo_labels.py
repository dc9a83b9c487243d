"""Learning from unlabelled texts too: pseudo-labels with a threshold for each class, consistent under rewriting.

A teacher learns from the labelled rows alone, with the run's own settings. Where it is sure enough of an unlabelled
text, its answer becomes the text's label, and the run learns from both. Sources: Lee 2013 (pseudo-labels); Zhang et al.
2021, "FlexMatch" (thresholds that follow how well each class is learnt); Sohn et al. 2020, "FixMatch" (the answer for
the text as it is becomes the label of its rewritten copy).
"""

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent
from weitiao.core.messages import say
from weitiao.data.encode import Encoded, rows_in_chunks
from weitiao.stages import _augment
from weitiao.stages._prepare import add_facts
from weitiao.stages._rehearsal import understudy
from weitiao.tasks.base import Task, softmax

if TYPE_CHECKING:
    from weitiao.stages._training import Training


def add(run: "Training") -> Iterator[Event]:
    """Put those of ``run.data.unlabelled`` that a teacher is sure of behind the training rows of ``run.data.encoded``.

    Raises:
        WeitiaoError: the answers are no single classes.
    """
    config, task, answers, records = run.config, run.task, run.answers, run.data.unlabelled
    if answers.kind != "classes":
        raise WeitiaoError(
            say(
                f"--unlabelled needs single classes; {config.task} has {answers.kind} here",
                f"--unlabelled 用于单标签分类，而此处 {config.task} 的目标是 {answers.kind}",
            )
        )
    labelled = len(run.data.encoded["train"])
    yield NoteEvent(
        say(
            f"A teacher learns from the {labelled:,} labelled texts, then labels {len(records):,} others",
            f"先用 {labelled:,} 条有标签的文本训练教师模型，再由它标注 {len(records):,} 条无标签文本",
        )
    )
    yield ProgressEvent(say("training the teacher", "训练教师模型"), 0, 2)
    teacher = understudy(run, config, run.data.encoded["train"])
    yield ProgressEvent(say("labelling texts", "标注文本"), 1, 2)
    versions = [records, _copies(task, records, config)] if config.augment else [records]
    found = [_probabilities(teacher, version) for version in versions]
    yield ProgressEvent(say("labelling texts", "标注文本"), 2, 2)
    classes_N, sure_N = chosen_labels(found, config.unlabelled_threshold)
    for version in versions:
        rows = [row for chunk in rows_in_chunks(version) for row in chunk]
        added = [
            {**row, task.label_key: answers.names[label]}
            for row, label, sure in zip(rows, classes_N, sure_N, strict=True)
            if sure
        ]
        if added:
            more = task.encode(added, run.tokenizer, config.max_length, answers)
            add_facts(task, run.data, more, added)
            run.data.encoded["train"] = Encoded.joined([run.data.encoded["train"], more])
    counts = np.bincount(classes_N[sure_N], minlength=len(answers.names))
    names = ", ".join(f"{name} {n:,}" for name, n in zip(answers.names, counts.tolist(), strict=True) if n)
    share = f"{sure_N.mean():.0%}"
    yield NoteEvent(
        say(
            f"{sure_N.sum():,} of them ({share}) got a label: {names or 'none'}",
            f"其中 {sure_N.sum():,} 条（{share}）获得标签：{names or '无'}",
        )
    )


def chosen_labels(found: list[np.ndarray], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The label of each text, and whether the teacher is sure of it.

    Args:
        found: probabilities ``[N, C]`` of the texts, and of rewritten copies: the label is that of the text, the
            confidence its mean over all, and a text whose copy gets another label is not sure.
        threshold: of the best learnt class. That of class c is threshold * b / (2 - b), where b is the number of
            c's confident texts over that of the class that has the most (FlexMatch's convex mapping), and at
            least halfway from chance, 1 / C, to ``threshold``.

    Returns:
        int64 ``[N]`` and bool ``[N]``.
    """
    plain_NC = found[0]
    classes_N = plain_NC.argmax(1)
    confidence_N = np.mean([part[np.arange(len(part)), classes_N] for part in found], 0)
    same_N = np.all([part.argmax(1) == classes_N for part in found], 0)
    size = plain_NC.shape[1]
    confident = np.bincount(classes_N[confidence_N >= threshold], minlength=size).astype(float)
    learnt_C = confident / confident.max() if confident.any() else np.ones(size)
    threshold_C = np.maximum(threshold * learnt_C / (2 - learnt_C), (threshold + 1 / size) / 2)
    return classes_N, same_N & (confidence_N >= threshold_C[classes_N])


def _probabilities(teacher: "Training", records: Any) -> np.ndarray:
    """Of each class, float64 ``[N, C]``."""
    encoded = teacher.task.encode(records, teacher.tokenizer, teacher.config.max_length, None)
    return softmax(np.stack(teacher.outputs(encoded, records)).astype(np.float64))


def _copies(task: Task, records: Any, config: Any) -> list[dict[str, Any]]:
    """Each text rewritten by the methods of ``--augment``; as it is where none can."""
    members, random, made = _augment.members(config), Random(config.seed), Counter[str]()
    return [
        _augment.rewritten(task, row, members, random, made) or row
        for rows in rows_in_chunks(records)
        for row in rows
    ]
