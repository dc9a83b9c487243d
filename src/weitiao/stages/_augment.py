"""Rewritten copies of the training texts, added to them: the rows that are tested on stay as they are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from weitiao.augmentation.base import Augmentation
from weitiao.core.config import make_member, several, unweighted
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent
from weitiao.core.messages import say
from weitiao.data.encode import Encoded, rows_in_chunks
from weitiao.stages._prepare import Prepared, add_facts
from weitiao.tasks.base import Task


def check(config: Any) -> None:
    """Refuse what cannot be augmented, before anything is read.

    Raises:
        WeitiaoError: the task has no texts, the objective would learn from copies what is false, or a method has
            not got the table that it needs.
    """
    task = make_member("tasks", config.task, config.member_values)
    if task.reads != "texts":
        raise WeitiaoError(
            say(
                f"--augment rewrites texts; {config.task} has none",
                f"--augment 改写的是文本，而 {config.task} 没有文本",
            )
        )
    if "contrastive" in map(unweighted, several(config.objective)):
        # A copy of a pair in the same batch would count among those that it must be told apart from.
        raise WeitiaoError(
            say(
                "--augment cannot go with --objective contrastive, which takes the other pairs of a batch for "
                "different; use cosent",
                "--augment 不能与 --objective contrastive 同用：它把同批的其他文本对视为不匹配；请改用 cosent",
            )
        )
    members(config)


def add_copies(task: Task, prepared: Prepared, tokenizer: Any, config: Any) -> Iterator[Event]:
    """Put the copies behind the training rows in ``prepared.encoded``; the records stay those of the table.

    Raises:
        WeitiaoError: not one text could be rewritten.
    """
    if not config.augment:
        return
    chosen, random = members(config), Random(config.seed)
    records, made = prepared.records["train"], Counter[str]()
    parts, total, done = [prepared.encoded["train"]], len(records) * config.augment_copies, 0
    for _ in range(config.augment_copies):
        for rows in rows_in_chunks(records):
            yield ProgressEvent(say("rewriting texts", "改写文本"), done, total)
            copies = [
                copy for row in rows if (copy := rewritten(task, row, chosen, random, made)) is not None
            ]
            if copies:
                parts.append(task.encode_rows(copies, tokenizer, config.max_length, prepared.answers))
                add_facts(task, prepared, parts[-1], copies)
            done += len(rows)
    yield ProgressEvent(say("rewriting texts", "改写文本"), total, total)
    count = made.total()
    if not count:
        raise WeitiaoError(
            say(
                f"--augment {config.augment} found nothing to rewrite in {len(records):,} training texts",
                f"--augment {config.augment} 在 {len(records):,} 条训练文本中没有找到可改写之处",
            )
        )
    prepared.encoded["train"] = Encoded.joined(parts)
    shares = ", ".join(f"{name} {made[name]:,}" for name, _ in chosen)
    left, left_zh = "", ""
    if count < total:
        left, left_zh = (
            f"; {total - count:,} with nothing to rewrite",
            f"；另有 {total - count:,} 份没有可改写之处",
        )
    yield NoteEvent(
        say(
            f"{count:,} rewritten copies added to {len(records):,} training texts ({shares}){left}",
            f"为 {len(records):,} 条训练文本加入 {count:,} 份改写（{shares}）{left_zh}",
        )
    )


def members(config: Any) -> list[tuple[str, Augmentation]]:
    """The methods chosen, by name, with what they need."""
    found = []
    for name in several(config.augment):
        member: Augmentation = make_member("augmentation", name, config.member_values)
        if config.augment_rate is not None:
            member.rate = config.augment_rate
        member.prepare()
        found.append((name, member))
    return found


def rewritten(
    task: Task,
    row: dict[str, Any],
    members: Sequence[tuple[str, Augmentation]],
    random: Random,
    made: Counter[str],
) -> dict[str, Any] | None:
    """The row rewritten by one of the members, drawn among those that can; None where none can."""
    for name, member in random.sample(members, len(members)):
        copy = task.rewritten(row, lambda text, spans, by=member: by.apply(text, spans, random))  # type: ignore[misc]
        if any(copy[key] != row[key] for key in task.text_keys):
            made[name] += 1
            return copy
    return None
