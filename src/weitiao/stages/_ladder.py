"""The candidates that a target is tried with, from the cheapest to make to the dearest."""

from typing import Any

Step = tuple[str, dict[str, Any]]
KEPT_SHARES = (2 / 3, 1 / 2, 1 / 3)  # of the layers


def rungs(trained: Any, has_texts: bool) -> list[list[Step]]:
    """Lists of steps. The first ones need no training; the others drop layers and teach the rest."""
    small: list[Step] = [("vocabulary", {})] if has_texts else []
    found: list[list[Step]] = [[("int8", {})]]
    if small:
        found.append([*small, ("int8", {})])
    layers = trained.model.backbone.shape.num_hidden_layers
    for keep in sorted({max(round(share * layers), 1) for share in KEPT_SHARES} - {layers}, reverse=True):
        dropped: Step = ("layers", {"keep_layers": keep, "layer_choice": "even"})
        found.append([dropped, ("distillation", {}), *small, ("int8", {})])
    return found


def trains(steps: list[Step]) -> bool:
    """Whether a candidate needs training."""
    return any(name == "distillation" for name, _ in steps)
