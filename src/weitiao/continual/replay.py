"""Train on the new rows and on some old ones / 与部分旧数据一起训练（重放）.

Source: Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning". The old rows are read from the tables
that the run was trained on, which must still be there.
"""

from dataclasses import dataclass

from weitiao.continual.base import Continual
from weitiao.core.config import option


@dataclass
class Replay(Continual):
    """Rehearsal."""

    memory: int = option(
        20,
        "old rows of each class that are trained on again (0: all)",
        "每个旧类别重放多少行（0：全部）",
        least=0,
    )

    rehearses = True

    @property
    def rows_per_class(self) -> int:
        return self.memory
