"""Learn to scale keys, values and inner activations: few numbers / 学习对键、值与内部激活的缩放，参数极少（IA3）.

Source: Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning"; the
layers are those of ``peft``. Where a model computes queries, keys and values in one layer, queries are scaled too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weitiao.tuning._layers import FEED_FORWARD_OUTPUTS, KEYS_VALUES, linear_layers
from weitiao.tuning._peft import PeftTuning

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


@dataclass
class Ia3(PeftTuning):
    """(IA)^3."""

    learning_rate = 5e-3

    def config(self, model: "TextModel") -> Any:
        """An ``IA3Config``."""
        from peft import IA3Config

        inner = linear_layers(model, FEED_FORWARD_OUTPUTS)
        return IA3Config(
            target_modules=[*linear_layers(model, KEYS_VALUES), *inner], feedforward_modules=inner
        )
