"""Planes near the one on view come first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from napari_samseg.core.embed.order import PlaneOrder


def take_all(order):
    taken = []
    while (plane := order.take()) is not None:
        taken.append(plane)
    return taken


def test_without_a_focus_planes_come_as_they_are():
    assert take_all(PlaneOrder([(2,), (0,), (1,)])) == [(2,), (0,), (1,)]


def test_the_focus_comes_first_then_its_neighbours():
    order = PlaneOrder([(z,) for z in range(6)], focus=(3,))
    assert take_all(order) == [(3,), (2,), (4,), (1,), (5,), (0,)]


def test_the_focus_may_move_and_lie_beyond_the_planes():
    order = PlaneOrder([(t, z) for t in range(2) for z in range(4)], focus=(0, 0))
    assert order.take() == (0, 0)
    order.move_focus((1, 9))
    assert order.take() == (1, 3)
    assert len(order) == 6


def test_a_restart_hands_out_all_planes_around_the_same_focus():
    order = PlaneOrder([(z,) for z in range(4)], focus=(2,))
    take_all(order)
    order.restart()
    assert len(order) == 4
    assert take_all(order) == [(2,), (1,), (3,), (0,)]


@given(
    planes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), unique=True),
    focus=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_each_plane_is_taken_once(planes, focus):
    assert sorted(take_all(PlaneOrder(planes, focus))) == sorted(planes)


def test_a_single_plane_has_no_index():
    assert take_all(PlaneOrder([()], focus=())) == [()]
