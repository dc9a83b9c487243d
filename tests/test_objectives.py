"""The contract of the objectives, for every member, and each value against its formula written out."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toy import make

from weitiao.core import catalogue
from weitiao.data.encode import IGNORED
from weitiao.objectives.base import Loss


def sample(kind: str, count: int = 6, seed: int = 0):
    """Outputs and targets that an objective of this kind reads."""
    torch.manual_seed(seed)
    logits = torch.randn(count, 3)
    if kind in ("classes", "tokens"):
        return logits, torch.arange(count) % 3
    if kind == "pairs":
        return torch.randn(count, 2), torch.randn(count, 2)
    if kind == "labels":
        return logits, (torch.rand(count, 3) > 0.5).long()
    return F.normalize(torch.randn(count, 2, 8), dim=-1), torch.linspace(0, 1, count)


LOSSES = [n for n in catalogue.members("objectives") if issubclass(catalogue.member("objectives", n), Loss)]


def cases():
    for name in LOSSES:
        for kind in catalogue.member("objectives", name).fits:
            yield pytest.param(name, kind, id=f"{name}-{kind}")


@pytest.mark.parametrize(("name", "kind"), cases())
def test_an_objective_has_a_gradient(name, kind):
    outputs, targets = sample(kind)
    outputs.requires_grad_()
    objective = make("objectives", name)
    objective.prepare(targets, 3)
    loss = objective.loss_sum(outputs, targets)
    loss.backward()
    assert loss.ndim == 0 and loss > 0
    assert outputs.grad.isfinite().all() and outputs.grad.abs().max() > 0


@pytest.mark.parametrize(("name", "kind"), cases())
def test_the_sum_over_parts_is_the_sum_over_the_whole(name, kind):
    objective = make("objectives", name)
    outputs, targets = sample(kind)
    objective.prepare(targets, 3)
    whole = objective.loss_sum(outputs, targets)
    parts = objective.loss_sum(outputs[:2], targets[:2]) + objective.loss_sum(outputs[2:], targets[2:])
    # One that compares examples must say so, for the loop keeps its steps whole.
    assert torch.isclose(whole, parts, rtol=1e-5).item() is not objective.compares_examples


@pytest.mark.parametrize("name", [n for n in LOSSES if "classes" in catalogue.member("objectives", n).fits])
def test_ignored_targets_contribute_nothing(name):
    objective = make("objectives", name)
    outputs, targets = sample("classes")
    outputs.requires_grad_()
    holes = targets.clone()
    holes[[1, 4]] = IGNORED
    loss = objective.loss_sum(outputs, holes)
    kept = [0, 2, 3, 5]
    torch.testing.assert_close(loss, objective.loss_sum(outputs[kept], targets[kept]))
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert (gradient[[1, 4]] == 0).all() and (gradient[kept] != 0).any(1).all()
    nothing = objective.loss_sum(outputs, torch.full_like(targets, IGNORED))
    assert nothing.item() == 0


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_cross_entropy_with_balanced_weights_is_scikit_learns():
    from sklearn.utils import compute_class_weight

    outputs, _ = sample("classes")
    targets = torch.tensor([0, 0, 0, 1, 2, 2])
    objective = make("objectives", "cross_entropy", class_weights="balanced")
    objective.prepare(torch.cat([targets, torch.tensor([IGNORED])]), 3)
    weights = compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy())
    expected = -(weights[targets] * log_softmax(outputs.double().numpy())[np.arange(6), targets]).sum()
    assert float(objective.loss_sum(outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_balanced_weights_leave_out_a_class_that_never_occurs():
    objective = make("objectives", "cross_entropy", class_weights="balanced")
    objective.prepare(torch.tensor([0, 0, 1]), 3)
    assert objective.weights[:2].tolist() == pytest.approx([3 / 4, 3 / 2])
    assert objective.weights.isfinite().all()


def test_label_smoothing_spreads_the_target():
    outputs, targets = sample("classes")
    logs = log_softmax(outputs.double().numpy())
    goal = np.full((6, 3), 0.1 / 3) + 0.9 * np.eye(3)[targets]
    loss = make("objectives", "cross_entropy", label_smoothing=0.1).loss_sum(outputs, targets)
    assert float(loss) == pytest.approx(-(goal * logs).sum(), rel=1e-5)


def test_focal_without_gamma_is_cross_entropy():
    outputs, targets = sample("classes")
    plain = make("objectives", "cross_entropy").loss_sum(outputs, targets)
    torch.testing.assert_close(make("objectives", "focal", focal_gamma=0.0).loss_sum(outputs, targets), plain)


def test_focal_is_its_formula():
    outputs, targets = sample("classes")
    logs = log_softmax(outputs.double().numpy())[np.arange(6), targets]
    expected = -((1 - np.exp(logs)) ** 2 * logs).sum()
    assert float(make("objectives", "focal").loss_sum(outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_binary_cross_entropy_is_its_formula():
    outputs, targets = sample("labels")
    p, y = 1 / (1 + np.exp(-outputs.double().numpy())), targets.numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1).sum()
    loss = make("objectives", "binary_cross_entropy").loss_sum(outputs, targets)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_squared_error_reads_values_and_pairs():
    outputs, targets = sample("values")
    x, y = outputs.double().numpy(), targets.double().numpy()
    expected = sum((x[i, 0] @ x[i, 1] - y[i]) ** 2 for i in range(6))
    assert float(make("objectives", "squared_error").loss_sum(outputs, targets)) == pytest.approx(
        expected, rel=1e-5
    )
    values = torch.linspace(-1, 1, 6)
    loss = make("objectives", "squared_error").loss_sum(values.unsqueeze(1), targets)
    assert float(loss) == pytest.approx(float(((values.numpy() - y) ** 2).sum()), rel=1e-5)


def test_cosent_is_a_double_loop():
    outputs, targets = sample("values")
    targets = torch.tensor([0.0, 1.0, 0.5, 0.5, 0.2, 1.0])
    cosines = [float(a @ b) for a, b in outputs.double()]
    total = 1.0
    for i in range(6):
        for j in range(6):
            if targets[i] > targets[j]:
                total += np.exp(20 * (cosines[j] - cosines[i]))
    loss = make("objectives", "cosent").loss_sum(outputs, targets)
    assert float(loss) == pytest.approx(6 * np.log(total), rel=1e-5)


def test_contrastive_is_a_loop():
    outputs, _ = sample("values")
    targets = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    x, expected = outputs.double().numpy(), 0.0
    for i in (0, 2, 3, 5):
        scores = np.array([x[i, 0] @ x[j, 1] for j in range(6)]) / 0.05
        expected += np.log(np.exp(scores).sum()) - scores[i]
    assert float(make("objectives", "contrastive").loss_sum(outputs, targets)) == pytest.approx(
        expected, rel=1e-4
    )


def test_contrastive_without_a_match_is_zero_and_differentiable():
    outputs, _ = sample("values")
    loss = make("objectives", "contrastive").loss_sum(outputs.requires_grad_(), torch.zeros(6))
    loss.backward()
    assert loss.item() == 0 and (outputs.grad == 0).all()
