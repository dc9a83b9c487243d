"""The relation of two marked entities in a sentence / 关系抽取：判断句中两个实体的关系.

Source: Baldini Soares et al. 2019, "Matching the Blanks" (states of the entity markers, side by side), with the plain
punctuation markers of Zhou & Chen 2022, which need no new tokens: ``@ head @`` and ``# tail #``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.core.config import option
from weitiao.core.errors import BadRow
from weitiao.core.messages import say
from weitiao.data.columns import RELATIONS
from weitiao.data.encode import Encoded, Ragged, encode_texts, uncut_length
from weitiao.evaluation.base import Predictions
from weitiao.tasks.base import Answers, Rewrite, Task, class_targets, label_of, ranked, softmax, text_of

MARKED = re.compile(r"<(e[12])>(.*?)</\1>", re.S)


@dataclass
class RelationExtraction(Task):
    """Entities are marked in the text with ``<e1>..</e1> <e2>..</e2>``, or named in columns ``head`` and ``tail``."""

    top: int = option(1, "how many relations to return for a sentence", "每个句子返回几个关系", least=1)

    name = "relation_extraction"
    columns = RELATIONS

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        text = text_of(row)
        if row.get("head") is None or row.get("tail") is None:
            text, places = _from_tags(text)
        else:
            places = _find_both(text, text_of(row, "head"), text_of(row, "tail"))
        record: dict[str, Any] = {"text": text, "places": places}
        if "label" in row:
            record["label"] = label_of(row)
        return record

    def learn(self, records: Any) -> Answers:
        return Answers("classes", sorted(set(records["label"])))

    def rewritten(self, record: dict[str, Any], rewrite: Rewrite) -> dict[str, Any]:
        h0, h1, t0, t1 = record["places"]
        text, (head, tail) = rewrite(record["text"], [(h0, h1), (t0, t1)])
        return {**record, "text": text, "places": [*head, *tail]}

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        marked = [mark(row["text"], row["places"]) for row in rows]
        encodings = list(encode_texts(tokenizer, (text for text, _ in marked), max_length, offsets=True))
        uncut = np.array([uncut_length(e) for e in encodings])
        for i, row in enumerate(rows):
            # Where the cut loses an entity, keep a window around both instead, the widest that holds them.
            for characters in (4 * max_length, 2 * max_length, max_length, max_length // 2):
                if _end(marked[i][1], row["places"]) <= _reach(encodings[i]):
                    break
                marked[i] = mark(*_window(row["text"], row["places"], characters))
                encodings[i] = next(encode_texts(tokenizer, [marked[i][0]], max_length, offsets=True))
        marks = np.array(
            [[_token_at(e, place) for place in m[1]] for e, m in zip(encodings, marked, strict=True)]
        )
        encoded = Encoded(Ragged.of(e.ids for e in encodings), uncut=uncut, marks=marks.reshape(-1, 2))
        if answers is not None:
            encoded.targets = class_targets(rows, answers)
        return encoded

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        return {"type": "marker", "outputs": len(answers.names), "pooling": "markers"}

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        texts = [
            mark(text, places)[0] for text, places in zip(records["text"], records["places"], strict=True)
        ]
        logits = np.stack(outputs)
        rows = records["row_number"]
        return Predictions(texts, rows, answers.names, encoded.targets, logits.argmax(1), softmax(logits))

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        return [ranked(softmax(logits), answers.names, self.top) for logits in outputs]


def mark(text: str, places: Sequence[int]) -> tuple[str, tuple[int, int]]:
    """Put the markers into a text.

    Args:
        places: head's start and end, tail's start and end.

    Returns:
        the marked text, and where the head's and the tail's opening markers stand in it.
    """
    h0, h1, t0, t1 = places
    # At one place an end is put before a beginning, and of two beginnings the longer entity's first.
    cuts = sorted([(h0, 1, -h1, "@ "), (h1, 0, -h0, " @"), (t0, 1, -t1, "# "), (t1, 0, -t0, " #")])
    out, last, found = "", 0, {}
    for place, opening, _, marker in cuts:
        out += text[last:place]
        # A space apart, so that the marker stays a token of its own.
        before = " " if opening and out and not out.endswith(" ") else ""
        if opening:
            found[marker[0]] = len(out) + len(before)
        out += before + marker
        last = place
        if not opening and place < len(text) and not text[place].isspace():
            out += " "
    return out + text[last:], (found["@"], found["#"])


def _from_tags(text: str) -> tuple[str, list[int]]:
    """A text with <e1> and <e2> tags -> the text without them, and where the entities are."""
    found: dict[str, tuple[int, int]] = {}
    plain, last = "", 0
    for match in MARKED.finditer(text):
        plain += text[last : match.start()]
        found[match.group(1)] = (len(plain), len(plain) + len(match.group(2)))
        plain += match.group(2)
        last = match.end()
    if set(found) != {"e1", "e2"}:
        raise BadRow(
            "text",
            say("the two entities are not marked: <e1>..</e1> and <e2>..</e2>, or columns head and tail are needed",
                "没有标出两个实体：需要 <e1>..</e1> 与 <e2>..</e2>，或 head 与 tail 两列"),
        )  # fmt: skip
    return plain + text[last:], [*found["e1"], *found["e2"]]


def _find_both(text: str, head: str, tail: str) -> list[int]:
    """Where two entities stand in a text: the nearest occurrences that do not overlap."""
    places = []
    for role, entity in (("head", head), ("tail", tail)):
        found = [m.start() for m in re.finditer(re.escape(entity), text)] if entity else []
        if not found:
            raise BadRow(role, say(f"'{entity[:40]}' is not in the text", f"“{entity[:40]}”不在文本中"))
        places.append([(start, start + len(entity)) for start in found])
    pairs = [(h, t) for h in places[0] for t in places[1] if h[1] <= t[0] or t[1] <= h[0]]
    h, t = min(pairs, key=lambda p: (abs(p[0][0] - p[1][0]), p)) if pairs else (places[0][0], places[1][0])
    return [*h, *t]


def _window(text: str, places: Sequence[int], characters: int) -> tuple[str, list[int]]:
    """The part of a text around both entities, of so many characters; both entities at least."""
    low, high = min(places), max(places)
    room = max(characters - (high - low), 0) // 2
    start, end = max(low - room, 0), min(high + room, len(text))
    return text[start:end], [place - start for place in places]


def _end(openings: Sequence[int], places: Sequence[int]) -> int:
    """Where the entity that ends last ends in the marked text: behind its opening marker and itself."""
    h0, h1, t0, t1 = places
    return max(openings[0] + 2 + h1 - h0, openings[1] + 2 + t1 - t0)


def _reach(encoding: Any) -> int:
    return max((end for _, end in encoding.offsets), default=0)


def _token_at(encoding: Any, place: int) -> int:
    """The token that holds the character at ``place``; the first token where it was cut off."""
    for token, (start, end) in enumerate(encoding.offsets):
        if start <= place < end:
            return token
    return 0
