"""Planes encoded in batches give what they give alone, however little memory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from napari_samseg.core.errors import InvalidImageError, ModelMemoryError
from napari_samseg.core.memory import MemoryFallbackWarning
from napari_samseg.core.models import batching
from napari_samseg.core.models.batching import choose_batch_size, encode_planes_steps
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.speed import recall_speed

SIZES = [(48, 80), (64, 64), (30, 20), (200, 64), (7, 90), (64, 33), (80, 48)]
GIB = 1 << 30


class FewAtOnce(SamModel):
    """A real model that claims a GPU and has memory for `limit` planes at once."""

    def __init__(self, sam, limit, pretend="cuda"):
        super().__init__(sam, name="tiny vit", family="sam")
        self.limit = limit
        self.device = torch.device(pretend)
        self.dtype = torch.bfloat16
        self.batches = []

    def _preprocess(self, planes):
        device, self.device = self.device, torch.device("cpu")
        try:
            return super()._preprocess(planes)
        finally:
            self.device = device

    def encode_batch_steps(self, planes):
        self.batches.append(len(planes))
        steps = super().encode_batch_steps(planes)
        yield next(steps)
        if len(planes) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return (yield from steps)


@pytest.fixture
def planes():
    rng = np.random.default_rng(0)
    return [rng.uniform(0, 255, (*size, 3)).astype(np.float32) for size in SIZES]


@pytest.fixture
def model(tiny_sam):
    return SamModel(tiny_sam, name="tiny vit", family="sam")


def run(steps):
    """Return the steps of a generator and what it returns."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as stop:
            return seen, stop.value


def features(embedding):
    return embedding.features["image_embed"]


@pytest.fixture
def gpu(monkeypatch):
    """Figures of a GPU: 10 GiB free, 2 more cached by torch, a plane takes 1 GiB."""
    state = {"free": 10 * GIB, "allocated": 0, "peak": GIB}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: (state["free"], 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda d: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda d: GIB)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda d: None)
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda d: GIB + state["peak"]
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda d: "Pretended")
    return state


def test_a_batch_of_planes_of_all_sizes_gives_what_each_gives_alone(model, planes):
    _, batch = run(model.encode_batch_steps(planes))
    for plane, embedding in zip(planes, batch, strict=True):
        alone = model.encode(plane)
        assert embedding.original_size == plane.shape[:2]
        assert embedding.input_size == alone.input_size
        np.testing.assert_allclose(features(embedding), features(alone), atol=1e-5)


def test_an_embedding_does_not_keep_its_batch_in_memory(model, planes):
    _, batch = run(model.encode_batch_steps(planes))
    for embedding in batch:
        assert features(embedding).base is None
        assert features(embedding).flags.c_contiguous
        assert not features(embedding).flags.writeable


def test_the_processor_takes_planes_one_by_one_and_counts_them_all(model, planes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps, encoded = run(encode_planes_steps(model, planes))
    assert [e.precision for e in encoded] == ["float32"] * len(planes)
    for plane, one in zip(planes, encoded, strict=True):
        np.testing.assert_array_equal(
            features(one.embedding), features(model.encode(plane))
        )
    # four stages of two blocks; the last one of all is the end itself
    total = 4 * len(planes)
    assert [step.done for step in steps] == list(range(1, total))
    assert {step.total for step in steps} == {total}


def test_no_planes_are_no_work(model):
    assert run(encode_planes_steps(model, [])) == ([], [])


def test_a_batch_that_does_not_fit_is_halved(tiny_sam, planes, monkeypatch, gpu):
    monkeypatch.setattr(batching, "choose_batch_size", lambda model: 7)
    full = FewAtOnce(tiny_sam, limit=2)
    with pytest.warns(MemoryFallbackWarning) as record:
        _, encoded = run(encode_planes_steps(full, planes))
    assert [str(warning.message) for warning in record] == [
        "cuda ran out of memory: encoding 3 at a time instead",
        "cuda ran out of memory: encoding 1 at a time instead",
    ]
    assert full.batches == [7, 3] + [1] * 7
    assert [e.embedding.original_size for e in encoded] == SIZES
    assert {e.precision for e in encoded} == {"bfloat16"}


def test_then_the_cpu_takes_over_and_says_so(tiny_sam, model, planes, monkeypatch, gpu):
    monkeypatch.setattr(
        batching, "choose_batch_size", lambda m: 2 if m.device.type == "cuda" else 1
    )
    full = FewAtOnce(tiny_sam, limit=0)
    with pytest.warns(MemoryFallbackWarning) as record:
        steps, encoded = run(encode_planes_steps(full, planes))
    assert [str(warning.message) for warning in record] == [
        "cuda ran out of memory: encoding 1 at a time instead",
        "cuda ran out of memory: encoding on the CPU instead",
    ]
    assert full.batches == [2, 1]
    assert {e.precision for e in encoded} == {"float32"}
    for plane, one in zip(planes, encoded, strict=True):
        np.testing.assert_array_equal(
            features(one.embedding), features(model.encode(plane))
        )
    assert steps[-1].done == steps[-1].total - 1


def test_the_cpu_does_not_take_over_where_it_must_not(
    tiny_sam, planes, monkeypatch, gpu
):
    monkeypatch.setattr(batching, "choose_batch_size", lambda model: 2)
    full = FewAtOnce(tiny_sam, limit=0)
    with (
        pytest.warns(MemoryFallbackWarning, match="encoding 1 at a time"),
        pytest.raises(ModelMemoryError, match=r"cuda has not enough .*or the CPU"),
    ):
        run(encode_planes_steps(full, planes, on_cpu=False))
    assert full.batches == [2, 1]


def test_no_memory_even_there_is_an_error_of_its_own(tiny_sam, planes):
    full = FewAtOnce(tiny_sam, limit=0, pretend="cpu")
    with pytest.raises(ModelMemoryError, match="48 x 80 pixels with model tiny vit"):
        run(encode_planes_steps(full, planes))


def test_other_errors_come_through(model, planes):
    with pytest.raises(InvalidImageError, match="plane to encode"):
        run(encode_planes_steps(model, [*planes, np.zeros((4, 4), np.float32)]))


def test_the_batch_follows_from_what_a_first_plane_took(tiny_sam, planes, gpu):
    roomy = FewAtOnce(tiny_sam, limit=100)
    assert choose_batch_size(roomy) == 1
    run(encode_planes_steps(roomy, planes))
    # 80 % of 12 GiB hold nine planes: all that are left
    assert roomy.batches == [1, 6]
    assert choose_batch_size(roomy) == 9
    gpu["free"] = GIB
    assert choose_batch_size(roomy) == 2
    gpu["free"] = 0
    assert choose_batch_size(roomy) == 1
    gpu["free"] = 1000 * GIB
    assert choose_batch_size(roomy) == batching.GPU_PLANES
    assert choose_batch_size(FewAtOnce(tiny_sam, limit=100)) == 1


def test_other_devices_take_one_plane(tiny_sam):
    assert choose_batch_size(FewAtOnce(tiny_sam, 9, pretend="cpu")) == 1
    assert choose_batch_size(FewAtOnce(tiny_sam, 9, pretend="mps")) == 1


def test_waiting_between_steps_is_not_taken_for_encoding(
    model, planes, monkeypatch, tmp_path
):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path))
    clock = [0.0]
    monkeypatch.setattr(batching.time, "perf_counter", lambda: clock[0])
    stages = SamModel.encode_batch_steps

    def slow(self, batch):
        steps = stages(self, batch)
        for _ in range(3):
            clock[0] += 2.0
            yield next(steps)
        clock[0] += 2.0
        return (yield from steps)

    monkeypatch.setattr(SamModel, "encode_batch_steps", slow)
    for _ in encode_planes_steps(model, planes[:1]):
        clock[0] += 1000.0
    assert recall_speed(model) == 8.0
