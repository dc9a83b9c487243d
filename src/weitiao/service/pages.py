"""The metrics of several processes on one page: every series gets a label that says which process it is of."""

from collections.abc import Mapping


def merged(pages: Mapping[str, str]) -> str:
    """Pages in Prometheus' text format as one, with the label ``replica``; a family stays in one piece.

    Args:
        pages: a page by the name of its process.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for name, page in sorted(pages.items()):
        family = ""
        for line in page.splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2]
                kept = heads.setdefault(family, [])
                if line not in kept:
                    kept.append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, name))
    lines = [line for family, head in heads.items() for line in (*head, *samples.get(family, ()))]
    return "\n".join(lines) + "\n"


def _labelled(sample: str, name: str) -> str:
    """A line with one label more. A metric's name has no brace, so the first one opens the labels."""
    metric, brace, rest = sample.partition("{")
    if brace:
        return f'{metric}{{replica="{name}",{rest}'
    metric, _, rest = sample.partition(" ")
    return f'{metric}{{replica="{name}"}} {rest}'
