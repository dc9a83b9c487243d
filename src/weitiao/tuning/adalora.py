"""LoRA whose total rank is shared out by importance in training / 训练中按重要性分配总秩的 LoRA（AdaLoRA）.

Source: Zhang et al. 2023, "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning"; layers and
allocation are those of ``peft``. Each adapter begins with a higher rank; after a warm-up the least important singular
values are set to 0, until the budget (``lora_rank`` for each layer on average) is reached; the last steps keep it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.tuning._layers import EVERY, INPUTS, linear_layers
from weitiao.tuning._peft import LowRank, stored_config
from weitiao.tuning.base import freeze

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weitiao.models.backbone import TextModel

PARTS = ("lora_A", "lora_B", "lora_E")


@dataclass
class AdaLora(LowRank):
    """AdaLoRA."""

    adalora_start_rank: int = option(
        0,
        "rank to begin with (0: one and a half times lora_rank)",
        "起始的秩（0：lora_rank 的 1.5 倍）",
        least=0,
    )
    adalora_warmup: float = option(
        0.1, "share of the steps before ranks are cut", "开始削减秩之前的步数比例", least=0, most=0.5
    )
    adalora_final: float = option(
        0.4, "share of the steps after the budget is reached", "达到秩预算之后的步数比例", least=0, most=0.8
    )
    adalora_penalty: float = option(
        0.1, "weight of the penalty that keeps directions orthogonal", "使各方向保持正交的惩罚权重", least=0
    )

    learning_rate = 5e-3

    def __post_init__(self) -> None:
        self.steps = 0  # of the whole training; 0: it has not begun

    def config(self, model: "TextModel") -> Any:
        """An ``AdaLoraConfig``; its numbers of steps come with ``begin``."""
        from peft import AdaLoraConfig

        start = self.adalora_start_rank or -(-self.lora_rank * 3 // 2)
        if start <= self.lora_rank:
            raise WeitiaoError(
                say(
                    f"adalora_start_rank is {start}: with lora_rank {self.lora_rank} nothing would be left to share "
                    "out. Take a higher one",
                    f"adalora_start_rank 为 {start}，而 lora_rank 为 {self.lora_rank}：没有可分配的余量，请取更大的值",
                )
            )
        ends = INPUTS if self.lora_targets == "attention" else EVERY
        return AdaLoraConfig(
            target_r=self.lora_rank,
            init_r=start,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            orth_reg_weight=self.adalora_penalty,
            target_modules=linear_layers(model, ends, self.lora_layers),
            total_step=2,
        )

    def apply(self, model: "TextModel") -> None:
        from peft.tuners.adalora import AdaLoraModel

        freeze(model)
        self.tuner = AdaLoraModel(model.backbone, self.config(model), "default")
        self.settings = self.tuner.peft_config["default"]
        model.backbone.peft_config = self.tuner.peft_config

    # --- during training

    def begin(self, model: "nn.Module", total_steps: int) -> None:
        """Set the schedule of the budget by the real number of steps."""
        if total_steps < 2:
            raise WeitiaoError(
                say(
                    "AdaLoRA shares out its ranks over the steps and needs at least 2: train longer, or take lora",
                    "AdaLoRA 需要在训练步中分配秩，至少要 2 步：请延长训练，或改用 --tuning lora",
                )
            )
        final = min(round(self.adalora_final * total_steps), total_steps - 2)
        self.steps = self.settings.total_step = total_steps
        self.settings.tfinal = final
        self.settings.tinit = min(int(self.adalora_warmup * total_steps), total_steps - final - 1)
        self.settings.deltaT = max(total_steps // 200, 1)

    def extra_loss(self, model: "nn.Module") -> "Tensor | None":
        """Equation 4: how far A A' and B' B are from the identity, on average."""
        import torch

        found = []
        for name, parameter in model.backbone.named_parameters() if self.adalora_penalty else ():
            if "lora_A" in name or "lora_B" in name:
                rows = parameter if "lora_A" in name else parameter.T
                found.append(torch.linalg.norm(rows @ rows.T - torch.eye(len(rows), device=rows.device)))
        return self.adalora_penalty * torch.stack(found).mean() if found else None

    def after_step(self, model: "nn.Module", step: int, total_steps: int) -> None:
        """Weigh every singular value by the gradients of this step, and cut down to the budget."""
        self.tuner.update_and_allocate(step)

    def settled(self, step: int, total_steps: int) -> bool:
        """Before the budget is reached, weights have ranks that the result may not."""
        return step >= total_steps - self.settings.tfinal

    def state(self) -> "dict[str, Tensor]":
        """The smoothed importances, and which singular values are kept."""
        import torch

        allocator, ranks = self.tuner.rankallocator, self.settings.rank_pattern or {}
        kept = {f"kept/{name}": torch.tensor(mask) for name, mask in ranks.items()}
        smoothed = {f"importance/{name}": tensor for name, tensor in allocator.exp_avg_ipt.items()}
        unsure = {f"uncertainty/{name}": tensor for name, tensor in allocator.exp_avg_unc.items()}
        return {name: tensor.contiguous() for name, tensor in (kept | smoothed | unsure).items()}

    def load_state(self, state: "dict[str, Tensor]") -> None:
        import torch

        def part(kind: str) -> "dict[str, Tensor]":
            return {name.removeprefix(kind): t for name, t in state.items() if name.startswith(kind)}

        allocator = self.tuner.rankallocator
        allocator.exp_avg_ipt, allocator.exp_avg_unc = part("importance/"), part("uncertainty/")
        # Computed anew at each step, but the allocator begins anew with what it doesn't find there.
        allocator.ipt = {name: torch.zeros_like(tensor) for name, tensor in allocator.exp_avg_ipt.items()}
        self.settings.rank_pattern = {name: mask.tolist() for name, mask in part("kept/").items()} or None

    # --- after training

    def engaged(self, model: "nn.Module") -> dict[str, Any]:
        """The ranks of the adapters, which must differ from those at the beginning and sum to the budget."""
        pattern = self.settings.rank_pattern or {}
        singular = {n: p for n, p in model.backbone.named_parameters() if "lora_E" in n}
        budget, start = self.lora_rank * len(singular), self.settings.init_r
        ranks = [sum(pattern.get(name, [True] * start)) for name in singular]
        left = [name for name, mask in pattern.items() if any(singular[name].detach().cpu().flatten()[i]
                for i, kept in enumerate(mask) if not kept)]  # fmt: skip
        if sum(ranks) != budget or left:
            raise WeitiaoError(
                say(
                    f"AdaLoRA did not share out its ranks: they sum to {sum(ranks)}, the budget is {budget} "
                    f"({len(left)} layers are above theirs). Nothing was saved as a result",
                    f"AdaLoRA 没有完成秩的分配：总和为 {sum(ranks)}，预算为 {budget}（{len(left)} 层超出）。未保存结果",
                )
            )
        return {"rank_budget": budget, "rank_at_start": start * len(singular), "ranks": ranks}

    def tensors(self, model: "TextModel") -> "dict[str, Tensor]":
        """The singular values that are kept, and their directions, under the names that ``peft`` saves."""
        found = {}
        for name, module in self._layers(model).items():
            kept = (self.settings.rank_pattern or {}).get(f"{name}.lora_E.default", slice(None))
            for part in PARTS:
                tensor = getattr(module, part)["default"].detach()
                found[f"{name}.{part}"] = tensor[:, kept] if part == "lora_B" else tensor[kept]
        return found

    def save_adapter(self, model: "TextModel", folder: Path, base: str) -> None:
        from dataclasses import replace

        super().save_adapter(model, folder, base)
        pattern = self.settings.rank_pattern or {}
        short = {name.removesuffix(".default"): mask for name, mask in pattern.items()}
        replace(self.settings, rank_pattern=short or None).save_pretrained(str(folder))

    def load_adapter(self, model: "TextModel", folder: Path) -> None:
        pattern = stored_config(folder).get("rank_pattern")
        if pattern:
            self.tuner.resize_modules_by_rank_pattern(pattern, "default")
        super().load_adapter(model, folder)

    def put(self, model: "TextModel", tensors: "dict[str, Tensor]") -> None:
        for name, module in self._layers(model).items():
            for part in PARTS:
                getattr(module, part)["default"].data.copy_(tensors[f"{name}.{part}"])

    def _layers(self, model: "TextModel") -> "dict[str, Any]":
        return {name: module for name, module in model.backbone.named_modules() if hasattr(module, "lora_E")}
