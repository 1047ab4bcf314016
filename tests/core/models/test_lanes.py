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
        results += lanes.advance()
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


def test_little_memory_leaves_one_lane(embedded_model, threads, monkeypatch):
    from napari_samseg.core.models import lanes

    class Memory:
        available = 2 << 30

    monkeypatch.setattr(lanes.psutil, "virtual_memory", Memory)
    assert choose_lanes(embedded_model) == 2
    Memory.available = 1 << 20
    assert choose_lanes(embedded_model) == 1


def test_a_gpu_is_not_shared(tiny_sam, threads):
    model = SamModel(tiny_sam, name="tiny vit", family="sam")
    model.device = torch.device("cuda")
    assert choose_lanes(model) == 1
