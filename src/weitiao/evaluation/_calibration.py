"""Does a probability mean what it says? Expected calibration error (Guo et al. 2017, arXiv:1706.04599)."""

import numpy as np

BINS = 15


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """The bars of a reliability diagram: equal-width bins (low, high], empty ones left out.

    Args:
        confidence: float [N], the probability given to the answer.
        correct: bool [N].

    Returns:
        One dict a bin: low, high, count, confidence (mean), accuracy.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = []
    for index in np.unique(place):
        inside = place == index
        found.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "count": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(correct[inside].mean()),
            }
        )
    return found


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Mean distance between confidence and accuracy over the bins, each weighted by its answers."""
    found = reliability_bins(confidence, correct, bins)
    total = sum(entry["count"] for entry in found)
    distance = sum(entry["count"] * abs(entry["confidence"] - entry["accuracy"]) for entry in found)
    return distance / total if total else 0.0
