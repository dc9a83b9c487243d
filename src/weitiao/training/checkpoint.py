"""Checkpoints that survive: written whole or not at all, and checked before they are used.

A checkpoint is a folder ``checkpoints/step-00000120`` with the trained parameters, the optimizer's state,
``state.json`` and ``manifest.json`` (SHA-256 of each file); where the tuning method has a state of its own (see
``hooks``), that too. It is written under another name, flushed to the disk and renamed. Frozen parameters are not in
it: they come from the model's own folder.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from weitiao.core.runs import atomic_folder, read_json, sha256, write_json
from weitiao.models.saving import save_tensors
from weitiao.training.hooks import Hooks
from weitiao.training.team import Team, parted, whole

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
METHOD = "method.safetensors"


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name, and the running statistics of batch normalisation."""
    return {name: whole(value.detach()).contiguous() for name, value in _trained_values(model)}


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    hooks: Hooks | None = None,
    team: Team | None = None,
) -> Path:
    """Write the checkpoint of ``state["step"]``. Returns its folder.

    Processes that train together must all call it: each has a part of the numbers, and the main one writes. What it
    writes is what a process alone would, so that any number of processes can go on from it.

    Raises:
        OSError: the disk is full; nothing half-written is left and older checkpoints are untouched.
    """
    path = folder / f"step-{state['step']:08d}"
    weights, moments = trained_state(model), _optimizer_state(model, optimizer)
    if team is not None and not team.is_main:
        team.wait()
        return path
    with atomic_folder(path) as new:
        save_tensors(weights, new / "weights.safetensors")
        save_tensors(moments, new / "optimizer.safetensors")
        write_json(new / "state.json", state)
        if method := hooks.state() if hooks else {}:
            save_tensors(method, new / METHOD)
        write_json(new / "manifest.json", {path.name: sha256(path) for path in sorted(new.iterdir())})
    if team is not None:
        team.wait()
    return path


def newest(folder: Path, *, skipped: list[str] | None = None) -> Path | None:
    """The newest complete checkpoint. Damaged ones are passed over and named in ``skipped``."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        if is_complete(path):
            return path
        if skipped is not None:
            skipped.append(path.name)
    return None


def is_complete(path: Path) -> bool:
    """Whether every file of a checkpoint has the content that its manifest says."""
    try:
        manifest = read_json(path / "manifest.json")
        return all(sha256(path / name) == manifest[name] for name in {*FILES, *manifest})
    except Exception:
        return False


def load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, hooks: Hooks | None = None
) -> dict[str, Any]:
    """Put a checkpoint's parameters (and the states of optimizer and method) in place. Returns its state."""
    load_weights(path, model)
    if hooks is not None and (path / METHOD).exists():
        hooks.load_state(load_file(path / METHOD))
    if optimizer is not None:
        saved = load_file(path / "optimizer.safetensors")
        for name, parameter in _trained(model):
            parts = {
                key.removeprefix(f"{name}/"): value
                for key, value in saved.items()
                if key.startswith(f"{name}/")
            }
            if parts:
                optimizer.state[parameter] = {
                    key: parted(value, parameter) if value.shape == parameter.shape else value
                    for key, value in parts.items()
                }
    return read_json(path / "state.json")


def load_weights(path: Path, model: nn.Module) -> None:
    """Put a checkpoint's parameters in place."""
    weights = load_file(path / "weights.safetensors")
    with torch.no_grad():
        for name, value in _trained_values(model):
            value.copy_(parted(weights[name], value))


def load_mean(paths: Sequence[Path], model: nn.Module) -> None:
    """Put the mean of several checkpoints' parameters in place (Izmailov et al. 2018, "averaging weights")."""
    every = [load_file(path / "weights.safetensors") for path in paths]
    with torch.no_grad():
        for name, value in _trained_values(model):
            mean = every[0][name]
            if mean.is_floating_point():
                mean = torch.stack([weights[name] for weights in every]).mean(0)
            value.copy_(parted(mean, value))


def keep(folder: Path, last: int, steps: Collection[int]) -> None:
    """Remove all checkpoints but the ``last`` newest and those of some steps, such as the best one."""
    for path in sorted(folder.glob("step-*"))[:-last]:
        if path.name not in {f"step-{step:08d}" for step in steps}:
            shutil.rmtree(path, ignore_errors=True)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _trained_values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from _trained(model)
    for place, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield from ((f"{place}.{name}", value) for name, value in module.named_buffers(recurse=False))


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": whole(value).contiguous()
        for name, parameter in _trained(model)
        for key, value in optimizer.state.get(parameter, {}).items()
    }
