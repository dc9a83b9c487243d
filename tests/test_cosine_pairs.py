"""The loss over all pairs of a step, by hand, and its curve."""

import pytest
import torch
from toy import make, make_parts, open_model, table

from weitiao.core.errors import WeitiaoError
from weitiao.training.loop import train


class Seen:
    """What a first pass left: features and targets."""

    def __init__(self, features, targets):
        self.features, self.targets = torch.tensor(features), torch.tensor(targets)


def term(features, targets) -> float:
    return float(make("objectives", "cosine_pairs").term(Seen(features, targets)))


def test_it_is_the_formula():
    features = [[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]]  # cosines: 0.6, 0, 0.8
    assert term(features, [0, 0, 1]) == pytest.approx(3 * 0.5 * (0.4**2 + (0**2 + 0.8**2) / 2))
    assert term(features, [0, 0, 0]) == pytest.approx(3 * 0.5 * (0.4**2 + 1 + 0.2**2) / 3), (
        "pairs of one kind only"
    )
    assert term(features[:1], [0]) == 0


def test_all_pairs_are_those_of_setfits_loss():
    """The mean squared error to 1 and 0 over as many pairs of each kind, as sentence-transformers computes it."""
    torch.manual_seed(0)
    z, targets = torch.randn(6, 4), [0, 0, 1, 1, 2, 2]
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    cosine = torch.nn.functional.cosine_similarity
    alike = [(cosine(z[i], z[j], dim=0) - 1) ** 2 for i, j in pairs if targets[i] == targets[j]]
    other = [cosine(z[i], z[j], dim=0) ** 2 for i, j in pairs if targets[i] != targets[j]]
    oversampled = alike * (len(other) // len(alike)) + other
    assert term(z.tolist(), targets) == pytest.approx(6 * float(torch.stack(oversampled).mean()), rel=1e-5)


def test_its_curve_is_the_one_that_was_stored(tiny_model):
    model = open_model(tiny_model)
    parts = make_parts(model, table(), objective="0.01*cross_entropy+cosine_pairs", batch_size=24, epochs=6)
    losses = [event.loss for event in train(parts)]
    assert losses == pytest.approx([0.4554, 0.4222, 0.3821, 0.3462, 0.3273, 0.3217], abs=2e-3)


def test_one_class_is_refused():
    with pytest.raises(WeitiaoError, match="needs texts of two classes or more"):
        make("objectives", "cosine_pairs").prepare(torch.tensor([1, 1, 1]), 2)
