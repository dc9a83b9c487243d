"""From a corpus to blocks of token ids: files, tokenizer, encoded rows, and what the objectives must know of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent
from weitiao.core.messages import say
from weitiao.core.runs import read_json
from weitiao.core.sources import Resolved
from weitiao.data import learn_tokenizer, token_stream
from weitiao.data.corpus import Corpus, open_corpus
from weitiao.data.encode import load_tokenizer
from weitiao.data.pieces import facts
from weitiao.data.token_stream import Blocks
from weitiao.models.known import resolve_model
from weitiao.pretraining._composed import Composed
from weitiao.pretraining.base import Vocabulary
from weitiao.stages import _language_model
from weitiao.stages._resume import same_data

NAMED_SKIPS = 5
GZIP = 3  # about how much smaller a text is in gzip
USUAL = {
    "eos": ("<|endoftext|>", "</s>"),
    "sep": ("[SEP]", "</s>"),
    "cls": ("[CLS]", "<s>"),
    "mask": ("[MASK]", "<mask>"),
}


@dataclass
class Prepared:
    """What is trained on and scored; ``source`` is where the model comes from, None from scratch.

    ``used`` are the ids that occur in the corpus, special ones with them; ``about`` is what ``token_stream`` keeps.
    """

    source: Resolved | None
    tokenizer: Any
    train: Blocks
    held: Blocks
    about: dict[str, Any]
    used: np.ndarray


def prepare(config: Any, folder: Path, objective: Composed, scratch: bool) -> Iterator[Event | Prepared]:
    """Encode the corpus into ``folder``, or take what a run that is to go on left there; the last item is ``Prepared``.

    Sets ``objective.vocabulary``.

    Raises:
        WeitiaoError: the corpus cannot be used or is too small, or the model is not for the objective.
    """
    corpus = open_corpus(config.data, config.fields)
    yield from _skipped(corpus.skipped)
    source = None
    if not scratch:
        notes: list[str] = []
        source = resolve_model(config.model, notes.append)
        yield from (NoteEvent(note) for note in notes)
        _language_model.check(source.path, config.model, objective.decoder)
    digest = corpus.digest()
    if not (config.resume and (folder / "about.json").exists()):
        yield from _encode(config, corpus, digest, folder, objective.decoder, source)
    rows, about = token_stream.read(folder)
    same_data({"corpus": about["sha256"]}, {"corpus": {"sha256": digest}})
    _check_size(config, about["parts"])
    yield NoteEvent(_said(about))
    tokenizer = load_tokenizer(source.path if source else folder)
    objective.vocabulary, used = _vocabulary(
        rows, tokenizer, source.path if source else folder, objective.decoder
    )
    size, overlap = config.context - objective.special, 1 if objective.decoder else 0
    train, held = (Blocks(rows[p], size, overlap, about["parts"][p]["bytes"]) for p in token_stream.PARTS)
    yield Prepared(source, tokenizer, train, held, about, used)


def _skipped(lines: list[str]) -> Iterator[Event]:
    for line in lines[:NAMED_SKIPS]:
        yield NoteEvent(say(f"Skipped {line}", f"已跳过 {line}"), "warning")
    if (more := len(lines) - NAMED_SKIPS) > 0:
        yield NoteEvent(say(f"Skipped {more:,} more files", f"另跳过 {more:,} 个文件"), "warning")


def _encode(
    config: Any, corpus: Corpus, digest: str, folder: Path, decoder: bool, source: Resolved | None
) -> Iterator[Event]:
    total = sum(f.path.stat().st_size * (GZIP if f.path.suffix == ".gz" else 1) for f in corpus.files)
    keep = None
    if source is None:
        kind = config.tokenizer or ("bpe" if decoder else "wordpiece")
        yield NoteEvent(
            say(
                f"Learning a {kind} tokenizer of {config.tokenizer_size:,} pieces",
                f"训练 {kind} 分词器，词表 {config.tokenizer_size:,}",
            )
        )
        texts = (text for text, held in corpus.parts(config.held_out, config.seed) if not held)
        spread = learn_tokenizer.spread(texts, total)
        tokenizer = learn_tokenizer.learn(kind, spread, config.tokenizer_size, decoder)
        keep = partial(learn_tokenizer.save, tokenizer, length=config.context, decoder=decoder)
    else:
        tokenizer = load_tokenizer(source.path)
    end = special_id(tokenizer, "eos" if decoder else "sep", source.path if source else None)
    about = {"sha256": digest, "name": corpus.name, "skipped": corpus.skipped, "counts": corpus.counts}
    parts = corpus.parts(config.held_out, config.seed)
    yield from token_stream.write(parts, tokenizer, end, folder, about, total, keep)


def _check_size(config: Any, parts: dict[str, Any]) -> None:
    for part, names in (("train", ("training", "训练")), ("held_out", ("held-out", "留出"))):
        count = parts[part]["tokens"]
        if count < config.context:
            raise WeitiaoError(
                say(
                    f"The {names[0]} part of {config.data} has only {count:,} tokens, fewer than one block of "
                    f"{config.context}: give more text, a smaller --context or another --held-out",
                    f"{config.data} 的{names[1]}部分只有 {count:,} 个词元，不足一个 {config.context} 的文本块："
                    "请提供更多文本、减小 --context 或调整 --held-out",
                )
            )


def _said(about: dict[str, Any]) -> str:
    counts, (train, held) = about["counts"], (about["parts"][part]["tokens"] for part in token_stream.PARTS)
    said = say(
        f"{counts['documents']:,} documents, {counts['bytes'] / 1e6:,.1f} MB: {train:,} tokens to train on, "
        f"{held:,} held out",
        f"{counts['documents']:,} 篇文档，{counts['bytes'] / 1e6:,.1f} MB：训练 {train:,} 个词元，留出 {held:,} 个",
    )
    for key, en, zh in (("duplicates", "duplicates", "重复"), ("bad_lines", "damaged lines", "损坏的行")):
        if counts[key]:
            said += say(f"; {counts[key]:,} {en} left out", f"；略去{zh} {counts[key]:,}")
    return said


def _vocabulary(
    rows: dict[str, np.ndarray], tokenizer: Any, folder: Path, decoder: bool
) -> tuple[Vocabulary, np.ndarray]:
    """What the objectives must know, and the ids in use."""
    names = ("eos",) if decoder else ("sep", "cls", "mask")
    special = [special_id(tokenizer, name, folder) for name in names]
    found = np.unique(np.concatenate([np.unique(row) for row in rows.values()]))
    used = np.union1d(found, special)
    # A model may have ids that its tokenizer does not list.
    more = max(int(used.max()) + 1 - tokenizer.get_vocab_size(), 0)
    known: dict[str, Any] = {name: np.pad(value, (0, more)) for name, value in facts(tokenizer).items()}
    known["ends_V"][special[0]] = True
    known |= zip(("sep", "cls", "mask"), special, strict=False)
    return Vocabulary(used=found[~np.isin(found, special)], **known), used


def special_id(tokenizer: Any, name: str, folder: Path | None) -> int:
    """The id of a special token (eos, sep, cls, mask) by what the model's folder says, or by its usual name.

    Raises:
        WeitiaoError: the tokenizer has none.
    """
    said: list[Any] = []
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if folder is not None and (folder / file).exists():
            found = read_json(folder / file).get(f"{name}_token")
            said.append(found.get("content") if isinstance(found, dict) else found)
    for piece in (*said, *USUAL[name]):
        if piece and (number := tokenizer.token_to_id(piece)) is not None:
            return int(number)
    raise WeitiaoError(say(f"The tokenizer has no {name} token", f"分词器没有 {name} 词元"))
