"""A job is paused, cancelled or fails, alone or beside others: nothing is lost."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from embedding_jobs import embed, make_job, make_volume, read_all

from napari_samseg.core.cache.zarr_store import EmbeddingStore, StackEntry
from napari_samseg.core.embed import job as job_module
from napari_samseg.core.embed import reading
from napari_samseg.core.embed.reading import StackReader
from napari_samseg.core.errors import CacheError, ModelMemoryError
from napari_samseg.core.models import lanes
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import EmbedSettings, TileSettings
from napari_samseg.core.steps import run_steps


class Counting(SamModel):
    """Counts the tiles that it has encoded."""

    n = 0

    def encode_batch_steps(self, planes):
        embeddings = yield from super().encode_batch_steps(planes)
        self.n += len(planes)
        return embeddings


@pytest.fixture
def counting(tiny_sam):
    return Counting(tiny_sam, name="tiny sam", family="sam")


def open_entry(location):
    store = EmbeddingStore(location)
    (digest,) = store.digests()
    return store.open_entry(digest)


def job_of_many_tiles(model, location):
    settings = TileSettings(tile=32, overlap=0)
    data = make_volume(1, (300, 330))
    return make_job(data, model, location, tile_settings=settings)


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# -- paused ----------------------------------------------------------------------------


def test_the_same_job_goes_on_after_a_pause(model, tmp_path):
    job = make_job(make_volume(), model, tmp_path / "s")
    job.order.move_focus((3,))
    steps = job.embed_steps()
    while not (step := next(steps)).stage.startswith("encoding planes") or not (
        step.done
    ):
        pass
    steps.close()
    done = {plane for plane, _ in read_all(tmp_path / "s")}
    assert (3,) in done
    report = run_steps(job.embed_steps())
    assert (report.encoded, report.kept) == (6 - len(done), len(done))
    assert len({plane for plane, _ in read_all(tmp_path / "s")}) == 6


def test_a_pause_within_a_plane_keeps_its_tiles(counting, tmp_path):
    job = job_of_many_tiles(counting, tmp_path / "s")
    for _ in job.embed_steps():
        # more than one file, and a part of the next
        if counting.n == 70:
            break
    entry = open_entry(tmp_path / "s")
    digest = entry.plane_digest((0,))
    n_tiles = len(entry.recipe.tiles)
    # the estimate took one more, to measure the speed
    assert n_tiles - len(entry.missing_tiles((0,), digest)) == counting.n - 1
    assert run_steps(job.embed_steps()).encoded == 1
    assert counting.n == n_tiles + 1
    assert entry.check((0,)) == "sound"


def test_a_job_that_ends_reads_and_claims_nothing_more(model, tmp_path, monkeypatch):
    n_read, has_stopped = [], threading.Event()

    class Waiting:
        shape, dtype = (6, 48, 60), np.dtype("uint16")

        def __getitem__(self, key):
            if key[0]:
                n_read.append(key[0])
                assert has_stopped.wait(60)
            return make_volume(n=1)[0]

    stop = StackReader.stop

    def stop_and_tell(self):
        stop(self)
        has_stopped.set()

    monkeypatch.setattr(StackReader, "stop", stop_and_tell)
    monkeypatch.setattr(reading, "OTHERS_SECONDS", 0.01)
    embed(make_volume()[:1], model, tmp_path / "first")  # the model's speed is known
    embed(Waiting(), model, tmp_path / "s", planes=(0, 1))
    has_stopped.clear()
    entry = open_entry(tmp_path / "s")
    for z in range(1, 6):
        assert entry.claim((z,))
    steps = make_job(Waiting(), model, tmp_path / "s").embed_steps()
    while not next(steps).detail.startswith("waiting for 5 planes of another process"):
        pass
    for z in range(1, 6):
        entry.release((z,))
    wait_until(lambda: bool(n_read))
    steps.close()
    assert len(n_read) == 1
    assert entry.claimed() == set()


# -- claims ----------------------------------------------------------------------------


def test_a_claim_that_cannot_be_given_up_hides_nothing(model, tmp_path, monkeypatch):
    embed(make_volume(), model, tmp_path / "s", planes=(0, 1))
    entry = open_entry(tmp_path / "s")

    def fail(self, planes):
        wait_until(lambda: len(entry.claimed()) >= 3)
        raise ValueError("the real error")

    release = StackEntry.release

    def refuse_one(self, plane):
        if plane == (1,):
            raise CacheError("no answer")
        release(self, plane)

    monkeypatch.setattr(SamModel, "encode_batch_steps", fail)
    monkeypatch.setattr(StackEntry, "release", refuse_one)
    with pytest.raises(ValueError, match="the real error"):
        embed(make_volume(), model, tmp_path / "s")
    assert entry.claimed() == {1}


def test_a_claim_without_an_answer_is_given_up(model, tmp_path, monkeypatch):
    embed(make_volume(), model, tmp_path / "s", planes=(0, 1))
    claim = StackEntry.claim

    def claim_and_fail(self, plane):
        assert claim(self, plane)
        if plane == (2,):
            raise CacheError("the network is gone")
        return True

    monkeypatch.setattr(StackEntry, "claim", claim_and_fail)
    with pytest.raises(CacheError, match="the network is gone"):
        embed(make_volume(), model, tmp_path / "s")
    assert open_entry(tmp_path / "s").claimed() == set()


def test_a_plane_that_another_process_has_begun_is_left_to_it(
    counting, tmp_path, monkeypatch
):
    monkeypatch.setattr(reading, "OTHERS_SECONDS", 0.01)
    job = job_of_many_tiles(counting, tmp_path / "s")
    for _ in job.embed_steps():
        if counting.n == 70:
            break
    other = open_entry(tmp_path / "s")
    assert other.claim((0,))
    n_before = counting.n
    steps = job.embed_steps()
    while next(steps).detail != "waiting for 1 plane of another process":
        pass
    for _ in range(5):
        next(steps)
    assert counting.n == n_before
    other.release((0,))
    assert run_steps(steps).encoded == 1


def test_claims_are_renewed_with_each_tile(model, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "RENEW_SECONDS", -1.0)
    claimed = []
    claim = StackEntry.claim

    def count(self, plane):
        claimed.append(plane)
        return claim(self, plane)

    monkeypatch.setattr(StackEntry, "claim", count)
    settings = TileSettings(tile=32, overlap=0)
    data = make_volume(1, (130, 160))
    embed(data, model, tmp_path / "s", tile_settings=settings)
    assert len(claimed) > len(open_entry(tmp_path / "s").recipe.tiles) > 20


# -- memory, and planes that cannot be read --------------------------------------------


def test_too_little_memory_to_read_is_no_unreadable_plane(model, tmp_path):
    class Large:
        shape, dtype = (6, 48, 60), np.dtype("uint16")

        def __getitem__(self, key):
            if key[0] == 2:
                raise MemoryError("no room for the plane")
            return make_volume(n=1)[0]

    skip = EmbedSettings(unreadable="skip")
    with pytest.raises(MemoryError, match="no room for the plane"):
        embed(Large(), model, tmp_path / "s", settings=skip)


def test_the_cpu_does_not_take_over(tiny_sam, tmp_path, monkeypatch):
    class Full(SamModel):
        def encode_batch_steps(self, planes):
            raise torch.OutOfMemoryError("out of memory")

        def on_cpu(self):
            raise AssertionError("another precision is another entry")

    model = Full(tiny_sam, name="tiny sam", family="sam")
    model.device = torch.device("mps")
    with pytest.raises(ModelMemoryError, match="mps has not enough memory"):
        embed(make_volume(), model, tmp_path / "s")


def test_tiles_of_a_plane_that_turns_out_unreadable(model, tmp_path, monkeypatch):
    measure, take = reading.measure_plane, StackReader.next

    def measure_badly(source, plane, *args, **options):
        measured = measure(source, plane, *args, **options)
        if plane != (2,):
            return measured
        n_read = []

        def read(*args):
            n_read.append(args)
            if len(n_read) > 2:
                raise OSError("bad block")
            return measured.read(*args)

        return SimpleNamespace(digest=measured.digest, size=measured.size, read=read)

    monkeypatch.setattr(reading, "measure_plane", measure_badly)
    # batches are always full: tiles wait when the plane fails
    monkeypatch.setattr(StackReader, "next", lambda self, timeout: take(self, 60))
    monkeypatch.setattr(job_module, "_batch", lambda model: 50)
    skip = EmbedSettings(unreadable="skip")
    data = make_volume(size=(100, 130))
    report = embed(data, model, tmp_path / "s", settings=skip)
    assert (report.encoded, report.unreadable) == (5, (((2,), "bad block"),))
    assert (2,) not in {plane for plane, _ in read_all(tmp_path / "s")}


# -- what is told ----------------------------------------------------------------------


def test_planes_that_are_kept_do_not_count_for_the_speed(model, tmp_path, monkeypatch):
    whole = {"tile_settings": TileSettings("whole")}
    volume = make_volume(8)
    embed(volume, model, tmp_path / "s", planes=(0, 4), **whole)
    entry = open_entry(tmp_path / "s")
    now = [0.0]

    class Slow:
        shape, dtype = volume.shape, volume.dtype

        def __getitem__(self, key):
            if key[0] < 4:
                now[0] += 1000.0
            return volume[key]

    encode = SamModel.encode_batch_steps

    def encode_slowly(self, planes):
        n_before = int(now[0] % 1000) // 60
        wait_until(lambda: len(entry.recorded()) == 4 + n_before)
        embeddings = yield from encode(self, planes)
        now[0] += 60.0
        return embeddings

    monkeypatch.setattr(SamModel, "encode_batch_steps", encode_slowly)
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(job_module, "time", clock)
    monkeypatch.setattr(lanes, "time", clock)
    steps = make_job(Slow(), model, tmp_path / "s", **whole).embed_steps()
    told = [step.detail.split(" planes/min")[0] for step in steps if step.detail]
    # a plane a minute; up to two of those encoded are not written yet
    assert told
    assert all(0.3 < float(rate) <= 1 for rate in told)


def test_what_could_not_be_written_at_the_end_is_logged(
    model, tmp_path, monkeypatch, caplog
):
    has_begun, has_stopped = threading.Event(), threading.Event()
    stop = StackReader.stop

    def stop_and_tell(self):
        stop(self)
        has_stopped.set()

    def fail(self, *args):
        has_begun.set()
        assert has_stopped.wait(60)
        raise CacheError("the disk is gone")

    monkeypatch.setattr(StackReader, "stop", stop_and_tell)
    monkeypatch.setattr(StackEntry, "put_tiles", fail)
    for _ in make_job(make_volume(), model, tmp_path / "s").embed_steps():
        if has_begun.is_set():
            break
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert record.name == "napari_samseg"
    message = "stack.tif: what was encoded last is not written: the disk is gone"
    assert record.getMessage() == message
