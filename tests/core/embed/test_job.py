"""A stack is encoded into a store, whatever happens meanwhile."""

from __future__ import annotations

import dataclasses
import errno
import threading
import time

import dask.array
import numpy as np
import pytest
import zarr
from embedding_jobs import embed, make_job, make_volume, read_all

from napari_samseg.core.cache.zarr_store import EmbeddingStore, StackEntry
from napari_samseg.core.embed import job as job_module
from napari_samseg.core.embed import reading
from napari_samseg.core.embed.reading import StackReader
from napari_samseg.core.errors import CacheError, InvalidImageError, SettingsError
from napari_samseg.core.images import open_image
from napari_samseg.core.memory import MemoryFallbackWarning
from napari_samseg.core.models import batching
from napari_samseg.core.models import lanes as lanes_module
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.speed import recall_speed
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.predict import Predictor
from napari_samseg.core.prompts.from_arrays import pair_prompts
from napari_samseg.core.settings import (
    EmbedSettings,
    ImageSettings,
    TileSettings,
)
from napari_samseg.core.steps import run_steps
from napari_samseg.core.tiled import TiledPlane, plan_tiles
from napari_samseg.core.types import Progress


@pytest.fixture(params=[1, 3], ids=["one lane", "three lanes"])
def n_lanes(request, monkeypatch):
    """Planes that are encoded side by side, whatever this machine has."""
    monkeypatch.setattr(job_module, "choose_lanes", lambda model: request.param)
    return request.param


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, features in expected.items():
        np.testing.assert_array_equal(found[key], features)


def test_every_plane_is_what_the_model_makes_of_it(model, tmp_path, n_lanes):
    volume = make_volume()
    report = embed(volume, model, tmp_path / "s", tile_settings=TileSettings("whole"))
    assert (report.encoded, report.kept, report.unreadable) == (6, 0, ())
    found = read_all(tmp_path / "s")
    assert len(found) == 6
    for (plane, _), features in found.items():
        pixels = measure_plane(open_image(volume), plane).read()
        expected = model.encode(pixels).features["image_embed"]
        np.testing.assert_allclose(features, expected, atol=2e-3, rtol=1e-3)


def test_the_annotator_finds_what_was_encoded(model, tmp_path, monkeypatch):
    volume = make_volume(size=(100, 130))
    embed(volume, model, tmp_path / "s")
    entry = EmbeddingStore(tmp_path / "s").open_entry(
        EmbeddingStore(tmp_path / "s").digests()[0]
    )
    plane = measure_plane(open_image(volume), (3,))
    tiles = plan_tiles(plane.size, model.input_size, TileSettings())
    assert len(tiles) > 5
    tiled = TiledPlane(Predictor(model, entry), plane, tiles)

    def refuse(self, planes):
        raise AssertionError("a plane is encoded although it is in the store")

    monkeypatch.setattr(SamModel, "encode_batch_steps", refuse)
    prompts = pair_prompts([(50, 60)], plane_size=plane.size)
    prediction = run_steps(tiled.predict_steps(prompts))
    assert prediction.plane_size == (100, 130)


def test_a_plane_of_many_tiles_lies_in_several_files(model, tmp_path, n_lanes):
    volume = make_volume(n=2, size=(300, 330))
    settings = TileSettings(tile=32, overlap=0)
    report = embed(volume, model, tmp_path / "s", tile_settings=settings)
    assert report.encoded == 2
    store = EmbeddingStore(tmp_path / "s")
    (digest,) = store.digests()
    recipe = store.recipe(digest)
    assert len(recipe.tiles) > 128
    chunks = tmp_path / "s" / digest / "features" / "c" / "0"
    assert len(list(chunks.iterdir())) == -(-len(recipe.tiles) // 64)
    assert len(read_all(tmp_path / "s")) == 2 * len(recipe.tiles)


@pytest.mark.parametrize("kind", ["dask", "zarr", "memory map"])
def test_planes_are_read_from_anything(kind, model, tmp_path):
    volume = make_volume()
    expected = embed_and_read(volume, model, tmp_path / "expected")
    if kind == "dask":
        data = dask.array.from_array(volume, chunks=(2, 20, 30))
    elif kind == "zarr":
        data = zarr.array(volume, chunks=(2, 20, 30))
    else:
        np.save(tmp_path / "volume.npy", volume)
        data = np.load(tmp_path / "volume.npy", mmap_mode="r")
    assert_same(embed_and_read(data, model, tmp_path / "s"), expected)


def test_a_second_run_encodes_nothing(model, tmp_path, monkeypatch):
    volume = make_volume()
    embed(volume, model, tmp_path / "s")
    monkeypatch.setattr(SamModel, "encode_batch_steps", None)
    report = embed(volume, model, tmp_path / "s")
    assert (report.encoded, report.kept) == (0, 6)


def test_a_range_of_planes(model, tmp_path):
    volume = make_volume()
    assert embed(volume, model, tmp_path / "s", planes=(2, 4)).encoded == 2
    assert {plane for plane, _ in read_all(tmp_path / "s")} == {(2,), (3,)}
    report = embed(volume, model, tmp_path / "s")
    assert (report.encoded, report.kept) == (4, 2)
    with pytest.raises(SettingsError, match="within 0:6"):
        make_job(volume, model, tmp_path / "s", planes=(2, 9))


def test_two_axes_of_planes(model, tmp_path):
    volume = make_volume().reshape(2, 3, 48, 60)
    embed(volume, model, tmp_path / "s")
    planes = {plane for plane, _ in read_all(tmp_path / "s")}
    assert planes == {(t, z) for t in range(2) for z in range(3)}


def test_a_single_plane_is_a_stack_too(model, tmp_path):
    assert embed(make_volume()[0], model, tmp_path / "s").encoded == 1


def test_a_cancelled_job_keeps_what_is_finished_and_goes_on(model, tmp_path, n_lanes):
    volume = make_volume()
    steps = make_job(volume, model, tmp_path / "s").embed_steps()
    while not (step := next(steps)).stage.startswith("encoding planes") or (
        step.done < 2
    ):
        pass
    steps.close()
    done = {plane for plane, _ in read_all(tmp_path / "s")}
    assert 2 <= len(done) <= 6
    assert n_lanes > 1 or len(done) < 6
    assert threads_of_jobs() == []
    report = embed(volume, model, tmp_path / "s")
    assert report.kept == len(done)
    assert_same(
        read_all(tmp_path / "s"), embed_and_read(volume, model, tmp_path / "other")
    )


def test_planes_that_changed_are_encoded_again(model, tmp_path):
    volume = make_volume()
    embed(volume, model, tmp_path / "s")
    volume[1, 5, 5] += 100
    report = embed(volume, model, tmp_path / "s")
    assert (report.encoded, report.kept) == (1, 5)
    assert_same(
        read_all(tmp_path / "s"), embed_and_read(volume, model, tmp_path / "other")
    )


def test_two_writers_share_the_planes(model, tmp_path):
    volume = make_volume(n=12)
    reports = []

    def work():
        reports.append(embed(volume, model, tmp_path / "s"))

    # the store is made by one of them
    embed(volume, model, tmp_path / "s", planes=(0, 1))
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.encoded for report in reports) == 11
    assert all(report.encoded + report.kept == 12 for report in reports)
    assert_same(
        read_all(tmp_path / "s"), embed_and_read(volume, model, tmp_path / "other")
    )


def test_a_reader_sees_whole_planes_while_they_are_written(model, tmp_path):
    volume = make_volume(n=8)
    expected = embed_and_read(volume, model, tmp_path / "expected")
    seen = []
    for step in make_job(volume, model, tmp_path / "s").embed_steps():
        if step.stage == "encoding planes":
            found = read_all(tmp_path / "s") if step.done else {}
            seen.append(len(found))
            assert_same(found, {key: expected[key] for key in found})
    assert seen == sorted(seen)


@pytest.mark.parametrize("unreadable", ["stop", "skip"])
def test_a_plane_that_cannot_be_read(unreadable, model, tmp_path, n_lanes):
    class Broken:
        shape, dtype = (6, 48, 60), np.dtype("uint16")

        def __init__(self):
            self.data = make_volume()

        def __getitem__(self, key):
            if key[0] == 4:
                raise OSError("bad block")
            return self.data[key]

    settings = EmbedSettings(unreadable=unreadable)
    if unreadable == "skip":
        report = embed(Broken(), model, tmp_path / "s", settings=settings)
        assert report.encoded == 5
        assert report.unreadable == (((4,), "bad block"),)
    else:
        with pytest.raises(InvalidImageError, match="plane 4 cannot be read: bad bl"):
            embed(Broken(), model, tmp_path / "s", settings=settings)
    # what came before it is kept either way
    assert {(z,) for z in range(4)} <= {plane for plane, _ in read_all(tmp_path / "s")}
    assert threads_of_jobs() == []


def test_a_full_disk_before_and_during(model, tmp_path, monkeypatch):
    volume = make_volume()
    usage = type("usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage)
        with pytest.raises(CacheError, match="are free: make room"):
            embed(volume, model, tmp_path / "s")
    assert not (tmp_path / "s").exists()

    put, n_put = StackEntry.put_tiles, []

    def fill_up(self, *args):
        if len(n_put) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        n_put.append(args)
        put(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StackEntry, "put_tiles", fill_up)
        with pytest.raises(OSError, match="No space left"):
            embed(volume, model, tmp_path / "s")
    assert threads_of_jobs() == []
    assert len(read_all(tmp_path / "s")) == 2
    assert embed(volume, model, tmp_path / "s").encoded == 4


def test_other_settings_have_entries_of_their_own(model, tmp_path):
    volume = make_volume()
    embed(volume, model, tmp_path / "s")
    for options in (
        {"image": ImageSettings("minmax")},
        {"image": ImageSettings(scope="volume")},
        {"settings": EmbedSettings("uint8")},
        {"tile_settings": TileSettings(tile=32)},
    ):
        assert embed(volume, model, tmp_path / "s", **options).encoded == 6
    assert len(EmbeddingStore(tmp_path / "s").digests()) == 5


def test_a_renamed_image_finds_its_embeddings(model, tmp_path):
    volume = make_volume()
    embed(volume, model, tmp_path / "s")
    job = make_job(volume, model, tmp_path / "s")
    job.stack = dataclasses.replace(job.stack, name="elsewhere/renamed.tif")
    assert run_steps(job.embed_steps()).kept == 6


def test_the_estimate_comes_before_anything_is_written(model, tmp_path):
    volume = make_volume(size=(100, 130))
    job = make_job(volume, model, tmp_path / "s")
    estimate = run_steps(job.estimate_steps())
    assert not (tmp_path / "s").exists()
    tiles = plan_tiles((100, 130), 64, TileSettings())
    assert (estimate.planes, estimate.missing) == (6, 6)
    assert estimate.tiles == 6 * len(tiles)
    assert estimate.seconds > 0
    assert "6 of 6 planes" in str(estimate)
    embed(volume, model, tmp_path / "s", planes=(0, 2))
    assert run_steps(job.estimate_steps()).missing == 4
    run_steps(job.embed_steps())
    (digest,) = EmbeddingStore(tmp_path / "s").digests()
    written = sum(
        path.stat().st_size
        for path in (tmp_path / "s" / digest / "features" / "c").rglob("*")
        if path.is_file()
    )
    assert 0.7 < estimate.nbytes / written < 1.3


def test_the_plane_in_focus_comes_first(model, tmp_path):
    job = make_job(make_volume(n=9), model, tmp_path / "s")
    job.order.move_focus((6,))
    steps = job.embed_steps()
    while not (step := next(steps)).stage.startswith("encoding planes") or (
        step.done < 3
    ):
        pass
    steps.close()
    planes = {plane for plane, _ in read_all(tmp_path / "s")}
    assert {(6,), (5,), (7,)} <= planes


def test_little_is_in_memory_at_once(model, tmp_path, n_lanes):
    """Reading stays a few planes ahead however slow encoding is."""
    n_read = []

    class Counting:
        shape, dtype = (40, 48, 60), np.dtype("uint16")

        def __getitem__(self, key):
            n_read.append(key[0])
            return make_volume(n=1)[0]

    steps = make_job(Counting(), model, tmp_path / "s").embed_steps()
    for step in steps:
        if step.stage == "encoding planes" and step.done >= 5:
            time.sleep(0.3)
            break
    # one sample, those that are done, and the few that are on their way
    assert len(n_read) <= 1 + 5 + 3 * n_lanes + 5
    steps.close()


def test_memory_that_runs_out_shrinks_the_batch(tiny_sam, tmp_path, monkeypatch):
    import torch

    class Small(SamModel):
        def encode_batch_steps(self, planes):
            if len(planes) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().encode_batch_steps(planes)

    model = Small(tiny_sam, name="small", family="sam")
    volume = make_volume()
    expected = embed_and_read(volume, model, tmp_path / "expected")
    monkeypatch.setattr(batching, "choose_batch_size", lambda model: 4)
    monkeypatch.setattr("napari_samseg.core.embed.job._batch", lambda model: 4)
    # batches are always full
    take = StackReader.next
    monkeypatch.setattr(StackReader, "next", lambda self, timeout: take(self, 60))
    with pytest.warns(MemoryFallbackWarning, match="at a time"):
        embed(volume, model, tmp_path / "s")
    found = read_all(tmp_path / "s")
    for key, features in expected.items():
        np.testing.assert_allclose(found[key], features, atol=2e-3, rtol=1e-3)


def test_planes_that_wait_for_a_slow_one_are_kept(tiny_sam, tmp_path, monkeypatch):
    monkeypatch.setattr(job_module, "choose_lanes", lambda model: 2)
    slow_is_to_end = threading.Event()

    class SlowAtFirst(SamModel):
        n_started = 0

        def encode_batch_steps(self, planes):
            self.n_started += 1
            is_slow = self.n_started == 2  # the first is that of the estimate
            steps = super().encode_batch_steps(planes)
            yield next(steps)
            if is_slow:
                while not slow_is_to_end.wait(0.01):
                    yield Progress("slow")
            return (yield from steps)

    model = SlowAtFirst(tiny_sam, name="slow", family="sam")
    steps = make_job(make_volume(), model, tmp_path / "s").embed_steps()
    while model.n_started < 5:
        next(steps)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        next(steps)
    steps.close()
    kept = {plane for plane, _ in read_all(tmp_path / "s")}
    assert kept == {(1,), (2,), (3,)}


def test_memory_for_one_plane_at_a_time(tiny_sam, tmp_path, monkeypatch):
    monkeypatch.setattr(job_module, "choose_lanes", lambda model: 2)

    class OneAtATime(SamModel):
        inside = 0

        def encode_batch_steps(self, planes):
            self.inside += 1
            try:
                if self.inside > 1:
                    raise MemoryError
                steps = super().encode_batch_steps(planes)
                yield next(steps)
                time.sleep(0.05)
                return (yield from steps)
            finally:
                self.inside -= 1

    model = OneAtATime(tiny_sam, name="small", family="sam")
    with pytest.warns(MemoryFallbackWarning, match="one plane at a time"):
        report = embed(make_volume(), model, tmp_path / "s")
    assert report.encoded == 6
    assert len(read_all(tmp_path / "s")) == 6


def test_the_rate_is_that_of_work_not_of_rest(model, tmp_path, monkeypatch):
    """Each step takes a second by the clock, and what goes first meanwhile a minute."""
    monkeypatch.setattr(job_module, "choose_lanes", lambda model: 2)
    now, inside = [0.0], threading.Lock()

    class Clock:
        @staticmethod
        def monotonic():
            return now[0]

    encode = SamModel.encode_batch_steps

    def encode_slowly(self, planes):
        with inside:
            now[0] += 1.0
        return (yield from encode(self, planes))

    monkeypatch.setattr(SamModel, "encode_batch_steps", encode_slowly)
    monkeypatch.setattr(job_module, "time", Clock)
    monkeypatch.setattr(lanes_module, "time", Clock)
    rates = []
    for step in make_job(make_volume(12), model, tmp_path / "s").embed_steps():
        if "planes/min" in step.detail:
            rates.append(float(step.detail.split()[0]))
        time.sleep(0.05)  # until the steps under way have ended
        now[0] += 60.0
    assert rates
    assert all(10 < rate <= 120 for rate in rates)
    assert 0.4 < recall_speed(model, 2) < 2.1


def embed_and_read(data, model, location):
    embed(data, model, location)
    return read_all(location)


def threads_of_jobs() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("samseg")]


def test_claims_of_others_are_waited_for(model, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "OTHERS_SECONDS", 0.05)
    volume = make_volume()
    embed(volume, model, tmp_path / "s", planes=(0, 1))
    store = EmbeddingStore(tmp_path / "s")
    other = store.open_entry(store.digests()[0])
    assert other.claim((3,))
    job = make_job(volume, model, tmp_path / "s")
    steps = job.embed_steps()
    for step in steps:
        if step.done == 5:
            break
    for _ in range(5):
        assert next(steps).done == 5
    other.release((3,))
    assert run_steps(steps).encoded == 5
