"""Decisions about refined objects: each one step, with its pixels."""

from __future__ import annotations

import numpy as np
import pytest

from napari_samseg.core.painting import ArrayLabels
from napari_samseg.core.refine.review import ACCEPTED, DELETED, OPEN, Review
from napari_samseg.core.refine.scores import REFINED, ObjectScore, sort_by_doubt


def score(object_id, plane, doubt):
    return ObjectScore(
        object_id, plane, REFINED, 1, 0, 0.9, 0.8, 1.0, doubt, 4, 4, (0, 0, 2, 2)
    )


@pytest.fixture(params=[(1, 2), (0, 2), (2, 0)], ids=["zyx", "yzx", "xyz"])
def review(request):
    """Two planes of a volume along one of its axes, of two objects each."""
    axes = request.param
    data = np.zeros((5, 5, 5), np.uint16)
    review = Review(ArrayLabels(data), (5, 5), axes)
    for z, doubts in ((1, {3: 0.1, 4: 0.9}), (3, {3: 0.5, 8: 0.9})):
        labels = np.zeros((5, 5), np.uint16)
        for i, object_id in enumerate(doubts):
            labels[2 * i : 2 * i + 2, 1:4] = object_id
        scores = [score(k, (z,), doubt) for k, doubt in doubts.items()]
        review.add_plane((z,), scores, labels, is_step=False)
    return review


def ids(review):
    return [(item.score.plane[0], item.score.object_id) for item in review.items]


def test_the_most_doubtful_come_first(review):
    assert ids(review) == [(1, 4), (3, 8), (3, 3), (1, 3)]
    assert review.n_open == 4
    assert not review.can_undo
    assert set(np.unique(review.read_plane((3,)))) == {0, 3, 8}


def test_every_action_is_one_step(review):
    start = review.target.array.copy()
    review.accept()
    assert review.current.key == ((3,), 8)
    review.delete()
    assert set(np.unique(review.read_plane((3,)))) == {0, 3}
    assert set(np.unique(review.read_plane((1,)))) == {0, 3, 4}
    states = [item.state for item in review.items]
    assert states == [ACCEPTED, DELETED, OPEN, OPEN]
    end = review.target.array.copy()
    review.undo()
    np.testing.assert_array_equal(review.target.array, start)
    assert review.current.key == ((3,), 8)
    review.undo()
    assert review.n_open == 4
    assert not review.can_undo
    review.redo()
    review.redo()
    np.testing.assert_array_equal(review.target.array, end)
    assert [item.state for item in review.items] == states
    assert not review.can_redo


def test_undo_leaves_what_others_did(review):
    review.delete()
    here = np.argwhere(review.target.array == 3)[0]
    review.target.array[tuple(here)] = 99
    review.undo()
    assert review.target.array[tuple(here)] == 99
    assert 4 in review.read_plane((1,))


def test_an_object_found_again(review):
    before = review.read_plane((1,))
    after = before.copy()
    after[4, 4] = 4
    review.accept()
    review.replace(score(4, (1,), 0.2), before, after)
    assert review.current.score.doubt == 0.2
    assert review.current.state == OPEN, "it is another mask than the accepted one"
    np.testing.assert_array_equal(review.read_plane((1,)), after)
    review.undo()
    np.testing.assert_array_equal(review.read_plane((1,)), before)
    assert review.items[0].state == ACCEPTED
    assert review.items[0].score.doubt == 0.9


def test_a_plane_refined_again(review):
    review.accept()
    review.move(1)
    at = review.current.key
    before = review.read_plane((1,))
    new = np.full((5, 5), 6, np.uint16)
    review.add_plane((1,), [score(6, (1,), 0.99)], new, is_step=True)
    assert ids(review) == [(1, 6), (3, 8), (3, 3)]
    review.undo()
    np.testing.assert_array_equal(review.read_plane((1,)), before)
    review.undo()  # of an object that is not in the queue any more
    assert at[0] == (3,)


def test_queue_goes_round(review):
    review.move(-1)
    assert review.current.key == ((1,), 3)
    review.accept()
    assert review.current.key == ((1,), 4)
    for _ in range(3):
        review.accept()
    assert review.n_open == 0
    assert review.current is not None
    review.accept()


def test_an_empty_queue_does_nothing():
    review = Review(ArrayLabels(np.zeros((4, 4), np.uint8)), (4, 4), (0, 1))
    for act in (review.accept, review.delete, review.undo, review.redo):
        act()
    review.move(1)
    assert review.current is None


def test_many_planes_are_queued_at_once(monkeypatch):
    """To sort the queue for each plane took seconds while the window stood still."""
    sorts = []

    def count(scores):
        sorts.append(1)
        return sort_by_doubt(scores)

    monkeypatch.setattr("napari_samseg.core.refine.review.sort_by_doubt", count)
    review = Review(ArrayLabels(np.zeros((9, 5, 5), np.uint16)), (5, 5), (1, 2))
    for z in range(9):
        plane = np.zeros((5, 5), np.uint16)
        review.add_plane((z,), [score(1, (z,), z / 10)], plane, is_step=False)
    assert not sorts
    assert [item.score.plane[0] for item in review.items] == list(range(9))[::-1]
    assert review.n_open == 9
    assert len(sorts) == 1
