"""Selections: the contract, for every member listed, and what each one promises beyond it."""

import numpy as np
import pytest
from toy import make

from weitiao.core import catalogue
from weitiao.selection.base import Pool, entropy_of

SELECTIONS = catalogue.members("selection")


def pool(rows: int = 40, classes: int = 3, seed: int = 0, labelled: int = 5) -> Pool:
    random = np.random.default_rng(seed)
    logits_KNC = random.normal(size=(4, rows, classes)) * 2
    p_KNC = np.exp(logits_KNC) / np.exp(logits_KNC).sum(-1, keepdims=True)
    x_NF = random.normal(size=(rows, 6))
    return Pool(p_KNC.mean(0), x_NF, random.normal(size=(labelled, 6)), p_KNC)


def test_the_family_has_these_members():
    golden = {"entropy", "margin", "badge", "core_set", "disagreement", "random"}
    assert golden <= set(SELECTIONS)


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_choice_is_distinct_rows_and_the_same_for_the_same_seed(name):
    member, given = make("selection", name), pool()
    first = member.choose(given, 10, np.random.default_rng(3))
    assert first.shape == (10,)
    assert len(set(first.tolist())) == 10
    assert set(first.tolist()) <= set(range(40))
    assert first.tolist() == member.choose(given, 10, np.random.default_rng(3)).tolist()


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_a_pool_smaller_than_what_is_asked_for_is_taken_whole(name, rows):
    chosen = make("selection", name).choose(pool(rows), 9, np.random.default_rng(0))
    assert sorted(chosen.tolist()) == list(range(rows))


@pytest.mark.parametrize("name", SELECTIONS)
def test_without_a_head_and_without_labels_something_is_chosen(name):
    equal = Pool(
        np.full((8, 3), 1 / 3),
        np.random.default_rng(0).normal(size=(8, 2)),
        np.empty((0, 2)),
        np.empty((0, 8, 3)),
    )
    chosen = make("selection", name).choose(equal, 3, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 3


@pytest.mark.parametrize("name", SELECTIONS)
def test_texts_that_are_all_alike_are_no_error(name):
    same = Pool(np.full((6, 2), 0.5), np.ones((6, 2)), np.ones((2, 2)), np.full((3, 6, 2), 0.5))
    chosen = make("selection", name).choose(same, 4, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 4


def test_entropy_and_margin_begin_with_what_is_open():
    p_NC = np.array([[0.9, 0.05, 0.05], [0.34, 0.33, 0.33], [0.5, 0.49, 0.01]])
    given = Pool(p_NC, np.zeros((3, 1)), np.empty((0, 1)), np.empty((0, 3, 3)))
    random = np.random.default_rng(0)
    assert make("selection", "entropy").choose(given, 3, random).tolist() == [1, 2, 0]
    assert make("selection", "margin").choose(given, 3, random).tolist() in ([1, 2, 0], [2, 1, 0])
    assert entropy_of(np.array([0.5, 0.5])) == pytest.approx(np.log(2))


def test_core_set_takes_the_farthest_from_all_that_is_taken():
    x_NF = np.array([[0.0], [1.0], [5.0], [9.0]])
    given = Pool(np.full((4, 2), 0.5), x_NF, np.array([[0.0]]), np.empty((0, 4, 2)))
    assert make("selection", "core_set").choose(given, 3, np.random.default_rng(0)).tolist() == [3, 2, 1]


def test_badge_passes_over_what_is_sure_and_what_is_a_copy():
    p_NC = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    x_NF = np.array([[3.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])  # rows 1 and 2 are the same text
    given = Pool(p_NC, x_NF, np.empty((0, 2)), np.empty((0, 4, 2)))
    for seed in range(20):
        chosen = set(make("selection", "badge").choose(given, 2, np.random.default_rng(seed)).tolist())
        assert chosen in ({1, 3}, {2, 3})


def test_badge_agrees_with_the_gradients_written_out():
    """The distances come from inner products of the two factors; here the outer products are formed."""
    given = pool(12)
    a_NC = given.probabilities_NC.copy()
    a_NC[np.arange(12), a_NC.argmax(1)] -= 1
    g_NG = np.einsum("nc,nf->ncf", a_NC, given.features_NF).reshape(12, -1)
    random, chosen = np.random.default_rng(5), []
    nearest_N = (g_NG**2).sum(1)
    for _ in range(6):
        chosen.append(int(random.choice(12, p=nearest_N / nearest_N.sum())))
        nearest_N = np.minimum(nearest_N, ((g_NG - g_NG[chosen[-1]]) ** 2).sum(1))
        nearest_N[chosen] = 0
    assert make("selection", "badge").choose(given, 6, np.random.default_rng(5)).tolist() == chosen


def test_disagreement_begins_where_the_committee_differs():
    sure_but_apart = [[1.0, 0.0], [0.0, 1.0]]
    alike_but_open = [[0.5, 0.5], [0.5, 0.5]]
    votes_KNC = np.array([[alike_but_open[k], sure_but_apart[k]] for k in range(2)])
    given = Pool(votes_KNC.mean(0), np.zeros((2, 1)), np.empty((0, 1)), votes_KNC)
    assert make("selection", "disagreement").choose(given, 2, np.random.default_rng(0)).tolist() == [1, 0]
