"""Which labels of a table are likely wrong: confident learning, from probabilities that never saw the label.

Source: Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", as
``cleanlab`` computes it. Class j's threshold is the mean probability of j over the rows labelled j; a row counts in
the confident joint at (its label, j) if j is the most probable of the classes that reach their threshold.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Noise:
    """What was found in N rows.

    Attributes:
        quality_N: 0 .. 1, the probability of the given label.
        suggested_N: the most probable label.
        confident_N: bool, the rows off the confident joint's diagonal.
        wrong: the estimated number of wrong labels.
    """

    quality_N: np.ndarray
    suggested_N: np.ndarray
    confident_N: np.ndarray
    wrong: int

    @property
    def order(self) -> np.ndarray:
        """The rows, most suspicious first, int ``[N]``."""
        return np.argsort(self.quality_N, kind="stable")


def find(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> Noise:
    """The noise in labels.

    Args:
        probabilities_NC: out-of-sample probabilities (see ``training.probe.held_out_probabilities``).
        labels_N: the given labels, int; at least two classes must occur.
    """
    from cleanlab.count import compute_confident_joint
    from cleanlab.rank import get_label_quality_scores

    present_C = np.unique(labels_N)  # cleanlab needs every class to have a row
    labels_N = np.searchsorted(present_C, labels_N)
    p_NC = np.clip(probabilities_NC[:, present_C], 1e-12, None)
    p_NC = p_NC / p_NC.sum(1, keepdims=True)
    quality_N = get_label_quality_scores(labels_N, p_NC, method="self_confidence")
    joint_CC, off = compute_confident_joint(
        labels_N, p_NC, calibrate=True, return_indices_of_off_diagonals=True
    )
    confident_N = np.zeros(len(labels_N), bool)
    confident_N[off] = True
    wrong = int(joint_CC.sum() - np.trace(joint_CC))
    return Noise(quality_N, present_C[p_NC.argmax(1)], confident_N, wrong)
