"""Find and label spans of a text, such as names / 序列标注：在文本中找出实体并标注类型（NER）."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.core.config import option
from weitiao.core.errors import BadRow
from weitiao.core.messages import say
from weitiao.data.columns import TOKENS
from weitiao.data.encode import IGNORED, Encoded, Ragged, encode_texts, uncut_length
from weitiao.evaluation.base import Predictions
from weitiao.tasks.base import Answers, Rewrite, Task, softmax, text_of

Span = tuple[int, int, str]


@dataclass
class TokenClassification(Task):
    """A BIO tag for each token; spans are character offsets into the text as it was given.

    Chinese characters are put apart before tokenizing, so that an entity can begin or end at any of them.
    """

    split_chinese: bool = option(
        True, "put Chinese characters apart before tokenizing", "分词前把汉字逐个分开"
    )

    name = "token_classification"
    columns = TOKENS
    label_key = "spans"

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        text = text_of(row)
        record: dict[str, Any] = {"text": text}
        if "spans" in row:
            spans = row["spans"] or []
            if not isinstance(spans, list):
                raise BadRow(
                    "spans",
                    say(f"{str(spans)[:40]!r} is not a list of spans", f"{str(spans)[:40]!r} 不是实体列表"),
                )
            for span in spans:
                if not 0 <= span["start"] < span["end"] <= len(text):
                    place = f"{span['start']}..{span['end']}"
                    raise BadRow("spans", say(f"{place} lies outside the text", f"{place} 超出文本范围"))
            record["spans"] = [{k: span[k] for k in ("start", "end", "label")} for span in spans]
        return record

    def learn(self, records: Any) -> Answers:
        kinds = sorted({span["label"] for spans in records["spans"] for span in spans})
        return Answers("classes", ["O", *(f"{side}-{kind}" for kind in kinds for side in "BI")])

    def rewritten(self, record: dict[str, Any], rewrite: Rewrite) -> dict[str, Any]:
        old = record["spans"]
        text, places = rewrite(record["text"], [(span["start"], span["end"]) for span in old])
        spans = [{**span, "start": start, "end": end} for span, (start, end) in zip(old, places, strict=True)]
        return {**record, "text": text, "spans": spans}

    def encode_rows(
        self, rows: list[dict[str, Any]], tokenizer: Any, max_length: int, answers: Answers | None
    ) -> Encoded:
        spaced = [_put_apart(row["text"]) if self.split_chinese else (row["text"], None) for row in rows]
        encodings = list(encode_texts(tokenizer, (text for text, _ in spaced), max_length, offsets=True))
        offsets = [_offsets(e, text, places) for e, (text, places) in zip(encodings, spaced, strict=True)]
        uncut = np.array([uncut_length(e) for e in encodings])
        encoded = Encoded(Ragged.of(e.ids for e in encodings), uncut=uncut, offsets=offsets)
        if answers is not None:
            number = {name: i for i, name in enumerate(answers.names)}
            tags = (_tags(row["spans"], place, number) for row, place in zip(rows, offsets, strict=True))
            encoded.targets = Ragged.of(tags, np.int64)
        return encoded

    def head(self, answers: Answers, pooling: str) -> dict[str, Any]:
        return {"type": "token", "outputs": len(answers.names), "pooling": "none"}

    def evaluation(self, answers: Answers) -> str:
        return "spans"

    def majority(self, records: Any, answers: Answers) -> Any:
        return None

    def predictions(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> Predictions:
        gold = [[(s["start"], s["end"], s["label"]) for s in spans] for spans in records["spans"]]
        found = [[span[:3] for span in spans] for spans in self._spans(outputs, encoded, answers)]
        kinds = sorted({name[2:] for name in answers.names if name != "O"})
        return Predictions(records["text"], records["row_number"], kinds, gold, found)

    def answers(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, records: Any, answers: Answers
    ) -> list[Any]:
        return [
            [
                {"entity_group": label, "word": text[start:end], "start": start, "end": end, "score": score}
                for start, end, label, score in spans
            ]
            for text, spans in zip(records["text"], self._spans(outputs, encoded, answers), strict=True)
        ]

    def _spans(
        self, outputs: Sequence[np.ndarray], encoded: Encoded, answers: Answers
    ) -> list[list[tuple[int, int, str, float]]]:
        assert encoded.offsets is not None
        return [
            spans_of(softmax(o), place, answers.names)
            for o, place in zip(outputs, encoded.offsets, strict=True)
        ]


def spans_of(
    probabilities: np.ndarray, offsets: np.ndarray, names: Sequence[str]
) -> list[tuple[int, int, str, float]]:
    """Spans from tag probabilities ``[tokens, C]``: B or a change of kind begins one; score: the tags' mean."""
    spans: list[tuple[int, int, str, float]] = []
    scores: list[float] = []
    best = probabilities.argmax(1)
    open_kind = ""
    for token, tag in enumerate(best):
        start, end = int(offsets[token, 0]), int(offsets[token, 1])
        if start == end:  # a special token, or a mark of a word's beginning alone
            continue
        name = names[tag]
        kind = name[2:]
        if name == "O":
            open_kind = ""
        elif name[0] == "I" and kind == open_kind:
            scores.append(float(probabilities[token, tag]))
            spans[-1] = (spans[-1][0], end, kind, float(np.mean(scores)))
        else:
            open_kind, scores = kind, [float(probabilities[token, tag])]
            spans.append((start, end, kind, scores[0]))
    return spans


def _tags(spans: list[dict[str, Any]], offsets: np.ndarray, number: dict[str, int]) -> np.ndarray:
    """A class number for each token. Tokens without characters are not scored."""
    tags = np.where(offsets[:, 0] < offsets[:, 1], number["O"], IGNORED)
    for span in spans:
        inside = np.flatnonzero(
            (offsets[:, 0] < span["end"]) & (offsets[:, 1] > span["start"]) & (tags != IGNORED)
        )
        if len(inside):
            tags[inside] = number[f"I-{span['label']}"]
            tags[inside[0]] = number[f"B-{span['label']}"]
    return tags


def _is_chinese(char: str) -> bool:
    return "\u3400" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff"


def _put_apart(text: str) -> tuple[str, np.ndarray]:
    """Spaces around Chinese characters, and for each new character the place of the old one it stands for."""
    out: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        chinese = _is_chinese(char)
        if out and out[-1] != " " and (chinese or _is_chinese(out[-1])) and char != " ":
            out.append(" ")
            places.append(place)
        out.append(char)
        places.append(place)
    return "".join(out), np.array([*places, len(text)], np.int64)


def _offsets(encoding: Any, text: str, places: np.ndarray | None) -> np.ndarray:
    """Character offsets into the original text, ``[tokens, 2]``, without the space a token may begin with."""
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    for token, (start, end) in enumerate(offsets):
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        offsets[token] = (
            (places[start], places[end - 1] + 1) if places is not None and end > start else (start, end)
        )
    return offsets
