"""Any text, all alike / 随机选取.

What every other way is measured against, and the only one whose labels say without bias how good the model is.
"""

from dataclasses import dataclass

import numpy as np

from weitiao.selection.base import Pool, Selection


@dataclass
class Random(Selection):
    """Rows drawn without replacement."""

    def choose(self, pool: Pool, count: int, random: np.random.Generator) -> np.ndarray:
        return random.permutation(len(pool))[:count]
