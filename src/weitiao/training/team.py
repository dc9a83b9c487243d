"""Several processes that train one model together, each holding a part of it (FSDP, Zhao et al. 2023).

Every process draws the same steps and takes its share of each step's texts, so that no text is read twice; a layer's
weights are brought together as it computes, and its gradients are summed and parted again. Weights, gradients and the
optimizer's state are each held once among all processes. ``accelerate`` connects the processes; the parting is torch's
``fully_shard``, which it would call itself on GPUs only.

With ``offload`` each process keeps its part in main memory, where the optimizer steps too, and a layer's weights come
to the GPU as it computes (Ren et al. 2021, "ZeRO-Offload"). A single process can do that as well: a group of one.
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from weitiao.training.batches import Batch

if TYPE_CHECKING:
    from weitiao.training.loop import Steps


@dataclass(frozen=True)
class Share:
    """A process's part of a step: micro-batches, what each one's loss is multiplied by, the whole step's targets."""

    batches: list[Batch]
    weights: list[float]
    count: int
    tokens: int


@dataclass
class Team:
    """The processes of a run: this one's number and how many there are. One alone talks to nobody."""

    rank: int = 0
    size: int = 1
    offload: bool = False
    dropout_seed: int = field(init=False)

    def __post_init__(self) -> None:
        self.dropout_seed = self.rank * 7919  # masks of other texts must be other masks

    @classmethod
    def join(cls, device: str, offload: bool = False) -> "Team":
        """The team that the environment describes, as torchrun and ``accelerate launch`` do; connects to it.

        Args:
            offload: the model is to be kept in main memory; where there is no GPU, it is there as it is.
        """
        # Sums of plain numbers, and what is kept in main memory, go from process to process without a GPU.
        backend = {} if device == "cpu" else {"backend": f"{device}:nccl,cpu:gloo"}
        offload = offload and device != "cpu"
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls.of_one(**backend) if offload else cls()
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu", **backend)
        return cls(state.process_index, state.num_processes, offload)

    @classmethod
    def of_one(cls, **backend: str) -> "Team":
        """A group of this process alone, which keeps the model in main memory."""
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(**backend, store=store, rank=0, world_size=1)
        return cls(offload=True)

    @property
    def parts(self) -> bool:
        """Whether the model is parted among processes, or kept apart from the GPU."""
        return self.size > 1 or self.offload

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """Threads for each process where the user says nothing; 0: torch's own choice."""
        return max((os.cpu_count() or 1) // self.size, 1) if self.size > 1 else 0

    def total(self, value: float) -> float:
        """The sum over all processes."""
        if self.size == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(summed)
        return float(summed)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag if self.size == 1 else self.total(float(flag)) > 0

    def agreed(self, flag: bool) -> bool:
        """What the main process says."""
        return self.total(float(flag and self.is_main)) > 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """Part from the others."""
        if self.parts and torch.distributed.is_initialized():
            from accelerate.state import AcceleratorState, PartialState

            torch.distributed.destroy_process_group()
            AcceleratorState._reset_state()
            PartialState._reset_state()

    def share(self, batches: "Steps", rows: np.ndarray) -> Share:
        """This process's part of a step. All have as many micro-batches, since a layer's weights come together in each.

        Who would have fewer runs one again, and multiplies its loss by 0.
        """
        if self.size == 1:
            mine = batches.step(rows)
            count, tokens = (sum(getattr(b, name) for b in mine) for name in ("count", "tokens"))
            return Share(mine, [1.0] * len(mine), count, tokens)
        rows = rows[np.argsort(batches.encoded.lengths[rows], kind="stable")]
        parts = [
            batches.step(rows[rank :: self.size]) if rank < len(rows) else [] for rank in range(self.size)
        ]
        everything = [batch for part in parts for batch in part]
        mine = parts[self.rank]
        idle = max(map(len, parts)) - len(mine)
        # ``fully_shard`` takes the mean of the processes' gradients; the step's loss is a sum over them.
        return Share(
            mine + [(mine or everything)[-1]] * idle,
            [float(self.size)] * len(mine) + [0.0] * idle,
            sum(batch.count for batch in everything),
            sum(batch.tokens for batch in everything),
        )


def shard(model: nn.Module, offload: bool = False) -> None:
    """Part a model among the processes: each layer on its own, then what is left; in place.

    The parameters become ``DTensor``: make the optimizer afterwards.

    Args:
        offload: keep the parts, their gradients and the optimizer's state in main memory.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        OffloadPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    for layer in _layers(model):
        fully_shard(layer, offload_policy=policy)
    fully_shard(model, offload_policy=policy)
    for method in ("hidden", "outputs"):  # training calls these, not ``forward``
        register_fsdp_forward_method(model, method)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of the backbone: those of the longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    yield from max(lists, key=len, default=())


def hollow(model: nn.Module) -> nn.Module:
    """A copy of a model without the numbers, to be filled by ``filled``; it takes no memory."""
    values = [*model.parameters(), *model.buffers()]
    empty: dict[int, Any] = {}
    for value in values:
        plain = value.detach().to("meta")
        is_parameter = isinstance(value, nn.Parameter)
        empty[id(value)] = nn.Parameter(plain, requires_grad=value.requires_grad) if is_parameter else plain
    return copy.deepcopy(model, empty)


def filled(empty: nn.Module, model: nn.Module) -> nn.Module:
    """The hollow copy with the parted model's numbers, whole again. All processes must call it."""
    whole_state = {name: whole(value.detach()).cpu() for name, value in model.state_dict().items()}
    empty.load_state_dict(whole_state, assign=True)
    return empty


def whole(value: Tensor) -> Tensor:
    """A tensor that may be parted, brought together. All processes must call it."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor that may be parted."""
    return value.to_local() if hasattr(value, "to_local") else value


def parted(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, parted as another one is."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    there = distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]
    return there.to(like.device)  # which is not the mesh's where a part is kept in main memory


def device_of(model: nn.Module) -> str:
    """The kind of device that a model computes on, wherever its parts are kept."""
    first = next(model.parameters())
    return first.device_mesh.device_type if hasattr(first, "device_mesh") else first.device.type
