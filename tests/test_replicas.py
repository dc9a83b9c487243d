"""Replicas of one service: a change made at one is made at all, and none is left out by failure or by coming late."""

import time

import pytest
from served import make_bundle

from weitiao.service.app import Settings, make_app
from weitiao.service.replicas import Board, Replica


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("v1", "v2")):
        make_bundle(tmp_path / "reviews" / name, seed=number)
    make_bundle(tmp_path / "topics", seed=2)
    return tmp_path


@pytest.fixture
def replica(folder):
    """Makes replicas, each with an application of its own, that meet at a board; closes their models at the end."""
    made = []

    def make(board):
        app = make_app(Settings(folder, threads=1))
        made.append(app.state.service)
        return Replica(f"r{len(made)}", app.state.service, board)

    yield make
    for service in made:
        service.models.close()


def answering(one):
    return {name: one.models.get(name).folder.name for name in one.models.names()}


def test_a_change_at_one_is_a_change_at_all(replica):
    board = Board()
    both = [replica(board), replica(board)]
    first, second = both
    first.models.load("reviews", "v1")
    assert (answering(first)["reviews"], answering(second)["reviews"]) == ("v1", "v2")
    for one in both:
        one.look()
    assert answering(second)["reviews"] == "v1"
    second.models.rollback("reviews")
    second.models.unload("topics")
    for one in both:
        one.look()
    assert answering(first) == answering(second) == {"reviews": "v2"}
    late = replica(board)
    assert answering(late).keys() == {"reviews", "topics"}
    late.look()
    assert answering(late) == {"reviews": "v2"}


def test_an_order_is_followed_once_and_never_echoed(replica):
    board = Board()
    first, second = replica(board), replica(board)
    first.models.load("reviews", "v1")
    second.look()
    held = second.models.get("reviews")
    for _ in range(3):
        first.look()
        second.look()
    assert second.models.get("reviews") is held
    assert board.swap("r0", "").orders["reviews"].number == 1


def test_a_bundle_replaced_in_place_reaches_all(replica, folder):
    board = Board()
    first, second = replica(board), replica(board)
    make_bundle(folder / "topics", seed=9)
    new = first.models.load("topics").version
    assert second.models.get("topics").version != new
    second.look()
    assert second.models.get("topics").version == new


def test_an_order_that_fails_leaves_what_answers(replica, caplog):
    board = Board()
    one = replica(board)
    board.order("reviews", "v3", "no such version")
    one.look()
    assert answering(one)["reviews"] == "v2"
    assert "reviews" in caplog.text
    assert one.board.swap("x", "").orders["reviews"].number == 1


def test_without_the_board_a_replica_goes_on(replica, caplog):
    class Gone:
        def swap(self, *_):
            raise ConnectionError

        order = swap

    one = replica(Gone())
    one.look()
    assert "cannot be reached" in caplog.text
    one.models.load("reviews", "v1")
    assert answering(one)["reviews"] == "v1"
    assert "do not know of its change" in caplog.text
    assert "weitiao_memory_bytes" in one.metrics.render()


def test_the_board_forgets_the_dead(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    board = Board()
    assert board.swap("a", "page a").pages == {"a": "page a"}
    now[0] += 10
    assert board.swap("b", "page b").pages == {"a": "page a", "b": "page b"}
    now[0] += 10
    assert board.swap("b", "page b2").pages == {"b": "page b2"}
