"""Work that goes on side by side is done once, in order, and only when asked."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from napari_samseg.core.models import load_model
from napari_samseg.core.models.batching import encode_planes_steps
from napari_samseg.core.models.lanes import Lanes, choose_lanes
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.steps import run_steps


@pytest.fixture
def threads():
    """Let torch have four threads, whatever the environment says."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


@pytest.fixture
def embedded_model():
    return load_model("default", device="cpu")


@pytest.fixture
def lanes(threads):
    lanes = Lanes(2)
    yield lanes
    lanes.end()


def finish(lanes):
    results = []
    while lanes.is_busy:
        results += [(done.key, done.value) for done in lanes.advance()]
    return results


def count_to(n, seen, seconds=0.0):
    for i in range(n):
        time.sleep(seconds)
        seen.append(i)
        yield
    return n


def test_results_come_in_the_order_of_the_start(lanes):
    lanes.start("slow", count_to(5, [], 0.02))
    lanes.start("fast", count_to(1, []))
    assert not lanes.is_free
    assert finish(lanes) == [("slow", 5), ("fast", 1)]


def test_a_slow_one_lets_others_by_but_not_many(lanes):
    lanes.start(0, count_to(40, [], 0.01))
    started = 1
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        while lanes.is_free:
            lanes.start(started, count_to(1, []))
            started += 1
        assert not lanes.advance()
    assert started == 4
    assert [key for key, _ in finish(lanes)] == [0, 1, 2, 3]


def test_nothing_goes_on_while_the_lanes_rest(lanes):
    seen = []
    lanes.start("a", count_to(100, seen))
    lanes.advance()
    time.sleep(0.1)
    at_rest = len(seen)
    time.sleep(0.1)
    assert len(seen) == at_rest <= 3


def test_each_lane_has_its_share_of_threads_and_nobody_else(lanes, threads):
    def ask():
        yield
        return torch.get_num_threads()

    lanes.start("a", ask())
    lanes.start("b", ask())
    assert [n for _, n in finish(lanes)] == [2, 2]
    assert torch.get_num_threads() == threads
    elsewhere = []
    other = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert elsewhere == [threads]


def test_what_is_finished_is_handed_out_at_the_end(lanes):
    lanes.start("slow", count_to(1000, [], 0.01))
    lanes.start("fast", count_to(1, []))
    for _ in range(5):
        assert not lanes.advance()
    left = lanes.end()
    assert [(key, done and done.value) for key, done in left] == [
        ("slow", None),
        ("fast", 1),
    ]
    assert not lanes.is_busy


def test_a_last_step_that_ends_while_it_is_looked_at_is_the_last(lanes):
    lanes.start("a", count_to(0, [], 0.0))
    (run,) = lanes._runs
    step = run.step

    class EndsNow:
        """Is not done when it is first thought of, but when it is asked."""

        def done(self):
            step.result()
            run.finished = run.finished or finished
            return True

    step.result()
    finished, run.finished, run.step = run.finished, None, EndsNow()
    (result,) = lanes.advance()
    assert (result.key, result.value) == ("a", 0)


def test_an_error_does_not_take_what_others_have_finished(threads):
    def fails():
        for _ in range(20):
            time.sleep(0.01)
            yield
        raise ValueError("broken")

    lanes = Lanes(3)
    lanes.start("slow", count_to(1000, [], 0.01))
    lanes.start("fast", count_to(1, []))
    lanes.start("bad", fails())
    with pytest.raises(ValueError, match="broken"):
        finish(lanes)
    assert [(key, done and done.value) for key, done in lanes.end()] == [
        ("slow", None),
        ("fast", 1),
        ("bad", None),
    ]


def test_time_counts_as_rest_when_no_step_is_under_way(lanes):
    lanes.start("a", count_to(3, [], 0.2))
    since = time.monotonic()
    assert lanes.seconds_at_rest(since) == 0
    time.sleep(0.5)
    assert 0.1 < lanes.seconds_at_rest(since) < 0.45
    finish(lanes)


def test_a_thread_that_cannot_start_leaves_nothing_behind(threads, monkeypatch):
    start, started = threading.Thread.start, []

    def only_once(thread):
        if thread.name.startswith("samseg encoder"):
            started.append(thread)
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", only_once)
    with pytest.raises(RuntimeError, match="start new thread"):
        Lanes(2)
    started[0].join(10)
    assert not started[0].is_alive()
    assert torch.get_num_threads() == threads


def test_lanes_made_at_once_leave_the_number_of_threads(threads):
    numbers = []

    def make():
        lanes = Lanes(2)
        lanes.start(0, count_to(1, []))
        finish(lanes)
        lanes.end()
        numbers.append(torch.get_num_threads())

    for _ in range(10):
        makers = [threading.Thread(target=make) for _ in range(3)]
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join()
    assert set(numbers) == {threads}


def test_an_error_comes_out_and_the_rest_is_closed(threads):
    lanes, closed = Lanes(2), []

    def fails():
        yield
        raise ValueError("broken")

    def goes_on():
        try:
            while True:
                yield
        finally:
            closed.append(True)

    lanes.start("a", goes_on())
    lanes.start("b", fails())
    with pytest.raises(ValueError, match="broken"):
        finish(lanes)
    lanes.end()
    assert closed
    assert not lanes.is_busy
    assert not [t for t in threading.enumerate() if t.name.startswith("samseg encoder")]


def test_planes_side_by_side_are_those_of_planes_alone(tiny_sam, lanes):
    model = SamModel(tiny_sam, name="tiny vit", family="sam")
    rng = np.random.default_rng(0)
    planes = rng.uniform(0, 255, (4, 50, 60, 3)).astype(np.float32)
    expected = [model.encode(plane).features["image_embed"] for plane in planes]
    for i in (0, 1):
        lanes.start(i, encode_planes_steps(model, [planes[i]], alone=False))
    found = finish(lanes)
    for i in (2, 3):
        lanes.start(i, encode_planes_steps(model, [planes[i]], alone=False))
    found += finish(lanes)
    for i, ((encoded,), features) in enumerate(
        zip([value for _, value in found], expected, strict=True)
    ):
        alone = run_steps(encode_planes_steps(model, [planes[i]]))[0].embedding
        np.testing.assert_allclose(
            encoded.embedding.features["image_embed"], features, atol=1e-4
        )
        np.testing.assert_allclose(alone.features["image_embed"], features, atol=1e-4)


def test_small_encoders_share_the_cores_and_large_ones_take_them(
    tiny_sam, embedded_model, monkeypatch
):
    vit = SamModel(tiny_sam, name="tiny vit", family="sam")
    for cores, small, large in ((1, 1, 1), (2, 2, 1), (8, 8, 2), (64, 8, 8)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=cores: n)
        assert (choose_lanes(embedded_model), choose_lanes(vit)) == (small, large)


def test_little_memory_leaves_one_lane(embedded_model, threads, monkeypatch, tmp_path):
    from napari_samseg.core import memory

    (tmp_path / "memory.max").write_text(f"{3 << 30}\n")
    (tmp_path / "memory.current").write_text(f"{1 << 30}\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert choose_lanes(embedded_model) == 2
    (tmp_path / "memory.current").write_text(f"{(3 << 30) - 1000}\n")
    assert choose_lanes(embedded_model) == 1
    (tmp_path / "memory.max").write_text("max\n")
    assert choose_lanes(embedded_model) == 4


def test_a_gpu_is_not_shared(tiny_sam, threads):
    model = SamModel(tiny_sam, name="tiny vit", family="sam")
    model.device = torch.device("cuda")
    assert choose_lanes(model) == 1
