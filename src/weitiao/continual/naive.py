"""Train on the new rows alone; much is forgotten / 只用新数据训练；会明显遗忘.

What every other way is measured against.
"""

from dataclasses import dataclass

from weitiao.continual.base import Continual


@dataclass
class Naive(Continual):
    """Nothing is done against forgetting."""
