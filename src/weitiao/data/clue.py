"""Entities written as offsets, in several shapes, made one: ``[{"start", "end", "label"}]``, end exclusive.

CLUE (CLUENER2020) writes ``{type: {surface: [[start, end], ...]}}`` with an *inclusive* end; SNIPS, doccano
and spaCy write ``[[start, end, label], ...]`` with an exclusive one. Offsets count characters of the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.core.errors import BadRow
from weitiao.core.messages import say

Span = dict[str, Any]


def spans_from_clue(text: str, label: Mapping[str, Any], column: str = "label") -> list[Span]:
    """A CLUE label as spans, in the order of the text.

    Raises:
        BadRow: the label has another shape, or an offset does not cut out the surface it names.
    """
    spans = []
    for kind, surfaces in label.items():
        for surface, places in surfaces.items() if isinstance(surfaces, Mapping) else [("", None)]:
            if not isinstance(places, Sequence) or not all(_pair(place) for place in places):
                expected = '{"type": {"surface": [[start, end]]}}'
                raise BadRow(
                    column, say(f"'{kind}' is not written as {expected}", f"“{kind}”不是 {expected} 的形式")
                )
            for start, last in places:
                found = text[start : last + 1] if 0 <= start <= last else ""
                if found != surface or not surface:
                    raise BadRow(
                        column,
                        say(
                            f"characters {start} to {last} of the text are '{found}', not '{surface}'",
                            f"文本第 {start} 到 {last} 个字符是“{found}”，不是“{surface}”",
                        ),
                    )
                spans.append({"start": start, "end": last + 1, "label": str(kind)})
    return sorted(spans, key=_order)


def is_clue(value: Any) -> bool:
    """Whether a value has the shape of a CLUE label with at least one entity."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(surfaces, Mapping) and surfaces for surfaces in value.values())
        and all(
            isinstance(places, Sequence)
            and not isinstance(places, str)
            and all(_pair(place) for place in places)
            for surfaces in value.values()
            for places in surfaces.values()
        )
    )


def is_spans(value: Any) -> bool:
    """Whether a value is a list of ``[start, end, label]`` or of ``{"start", "end", "label"}``, not empty."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(map(_triple, value))
    )


def spans_from_list(text: str | None, value: Sequence[Any], column: str = "spans") -> list[Span]:
    """A list that ``is_spans`` (or is empty) as spans, in the order of the text.

    Raises:
        BadRow: a span lies outside the text (where the text is known) or is empty.
    """
    spans = []
    for item in value:
        start, end, label = _triple(item)  # type: ignore[misc]
        if not 0 <= start < end or (text is not None and end > len(text)):
            size = "?" if text is None else len(text)
            raise BadRow(
                column,
                say(
                    f"the span [{start}, {end}) does not lie in the text of {size} characters",
                    f"区间 [{start}, {end}) 不在长度为 {size} 个字符的文本之内",
                ),
            )
        spans.append({"start": start, "end": end, "label": label})
    return sorted(spans, key=_order)


def _order(span: Span) -> tuple[int, int, str]:
    return span["start"], span["end"], span["label"]


def _pair(place: Any) -> bool:
    return isinstance(place, Sequence) and len(place) == 2 and all(type(offset) is int for offset in place)


def _triple(item: Any) -> tuple[int, int, str] | None:
    """Start, end and label of one span in either writing, or None where it is something else."""
    if isinstance(item, Mapping):
        label = next((item[key] for key in ("label", "type", "entity", "entity_group") if key in item), None)
        parts = (item.get("start", item.get("start_offset")), item.get("end", item.get("end_offset")), label)
    elif isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 3:
        parts = tuple(item)
    else:
        return None
    start, end, label = parts
    return (start, end, label) if type(start) is int and type(end) is int and isinstance(label, str) else None
