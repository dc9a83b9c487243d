"""How far annotators agree beyond chance: Cohen's kappa for two, Krippendorff's alpha for any number with gaps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

Labels = Mapping[int, str]  # row -> label


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """(p_o - p_e) / (1 - p_e) over texts that two annotators both labelled (Cohen 1960).

    None where there are no texts, or where both gave one and the same label throughout: chance then explains all.
    """
    if not pairs:
        return None
    observed = sum(a == b for a, b in pairs) / len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    by_chance = sum(first[label] * second[label] for label in first) / len(pairs) ** 2
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def krippendorff_alpha(by_annotator: Mapping[str, Labels]) -> float | None:
    """1 - D_o / D_e for nominal labels (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    A text counts if at least two labelled it; each of its m labels is paired with the other m - 1, weighed 1 / (m - 1).
    None where no text counts, or only one label occurs.
    """
    by_row: dict[int, list[str]] = {}
    for labels in by_annotator.values():
        for row, label in labels.items():
            by_row.setdefault(row, []).append(label)
    units = [given for given in by_row.values() if len(given) > 1]
    totals = Counter(label for given in units for label in given)
    n = totals.total()
    different = sum(
        sum(count * (len(given) - count) for count in Counter(given).values()) / (len(given) - 1)
        for given in units
    )
    expected = sum(count * (n - count) for count in totals.values())
    return None if not expected else 1 - (n - 1) * different / expected


def report(by_annotator: Mapping[str, Labels]) -> dict[str, Any]:
    """Alpha over all annotators; for each two: texts that both labelled, the share alike, kappa, where they differ."""
    pairs = []
    for a, b in combinations(sorted(by_annotator), 2):
        rows = sorted(by_annotator[a].keys() & by_annotator[b].keys())
        given = [(by_annotator[a][row], by_annotator[b][row]) for row in rows]
        different = Counter(pair for pair in given if pair[0] != pair[1])
        pairs.append({
            "annotators": [a, b],
            "texts": len(rows),
            "alike": sum(x == y for x, y in given) / len(given) if given else None,
            "kappa": cohen_kappa(given),
            "differences": [[*pair, count] for pair, count in different.most_common(10)],
        })  # fmt: skip
    return {"alpha": krippendorff_alpha(by_annotator), "pairs": pairs}
