"""Whatever happens to a process or a disk, no work is lost and nothing is wrong."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
from embedding_jobs import make_volume

from napari_samseg.core.cache.health import repair, verify
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.embed.file_job import FileJob, open_stack_job
from napari_samseg.core.errors import CacheError, DamagedStoreError
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.steps import run_steps

if sys.platform == "win32":
    pytest.skip("kill -9 and limits are for Unix", allow_module_level=True)

from embedding_processes import Command, Trap, fill_disk, serve_processes

N = 8
SIZE = (80, 100)
slow = pytest.mark.slow
# What a run in peace writes, by the image: the model is always the same.
_peace: dict[bytes, dict] = {}


@pytest.fixture(scope="module", autouse=True)
def server():
    serve_processes()


class Work:
    """An image in a file, the model to encode it with, and what comes of it."""

    def __init__(self, folder, checkpoint):
        self.folder, self.checkpoint = folder, checkpoint
        self.image, self.store = folder / "stack.tif", folder / "store"
        self.commands = []
        self.write(make_volume(N, SIZE))

    def write(self, volume):
        tifffile.imwrite(self.image, volume, photometric="minisblack")

    @property
    def words(self):
        return ["embed", self.image, "--out", self.store, "--model", self.checkpoint]

    def command(self, *more, **trap):
        log = self.folder / f"log{len(self.commands)}"
        trap = Trap(str(self.store), **trap)
        self.commands.append(Command([*self.words, *more], log, trap))
        return self.commands[-1]

    def job(self, store=None, **options):
        model = ModelSettings(str(self.checkpoint))
        return FileJob(
            self.image, str(store or self.store), model_settings=model, **options
        )

    def embed(self, store=None, **options):
        with open_stack_job(self.job(store, **options)) as job:
            return run_steps(job.embed_steps())

    def undisturbed(self):
        """Return what a run in peace writes, for the image as it is now."""
        content = self.image.read_bytes()
        if content not in _peace:
            shutil.rmtree(self.folder / "peace", ignore_errors=True)
            self.embed(self.folder / "peace")
            _peace[content] = read_by_digest(self.folder / "peace")
        return dict(_peace[content])

    def records(self):
        return list(self.store.glob("*/records/*[0-9]"))

    def n_whole(self):
        """Planes of which all tiles are there: a stop may leave some of one more."""
        store = EmbeddingStore(self.store, write=False)
        (digest,) = store.digests()
        entry = store.open_entry(digest)
        return sum(entry.has(entry.recipe.plane_at(place)) for place in range(N))


@pytest.fixture
def work(tmp_path, tiny_checkpoint):
    work = Work(tmp_path, tiny_checkpoint)
    yield work
    for command in work.commands:
        # after a test that failed one may stand still, and Python would wait for it
        command.kill()


def read_by_digest(location):
    """Return all features that a reader is given, by the pixels they are for."""
    store = EmbeddingStore(location, write=False)
    found = {}
    for digest in store.digests():
        entry = store.open_entry(digest)
        recipe = entry.recipe
        for place in range(recipe.n_planes):
            plane = recipe.plane_at(place)
            pixels = entry.plane_digest(plane)
            for tile in recipe.tiles:
                embedding = pixels and entry.get(recipe.key(plane, tile, pixels))
                if embedding:
                    found[pixels, tile] = embedding.features["image_embed"]
    return found


def assert_part_of(found, expected):
    for key, features in found.items():
        np.testing.assert_array_equal(features, expected[key])


def assert_whole(store, expected):
    found = read_by_digest(store)
    assert found.keys() == expected.keys()
    assert_part_of(found, expected)
    report = run_steps(verify(EmbeddingStore(store, write=False)))
    assert report.is_sound, report


def n_damaged(location):
    """Return how many planes are damaged; nothing may have been written yet."""
    try:
        store = EmbeddingStore(location, write=False)
    except DamagedStoreError:
        raise
    except CacheError:
        return 0
    return sum(len(e.damaged) for e in run_steps(verify(store)).entries)


def counted(text):
    """Return how many planes a command says it encoded, and how many were there."""
    pattern = r"(\d+) planes? encoded, (\d+) there before"
    encoded, kept = re.search(pattern, text).groups()
    return int(encoded), int(kept)


# A process stops itself when it writes one of its first records.
HALFWAY = {"at": 8, "where": "records/", "what": "stop"}


# -- kill -9 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moments", [(3, 12), pytest.param(range(1, 16), marks=slow)], ids=["two", "all"]
)
def test_a_killed_start_leaves_a_place_to_start(moments, work):
    expected = work.undisturbed()
    for at in moments:
        shutil.rmtree(work.store, ignore_errors=True)
        assert work.command(at=at).wait() == -signal.SIGKILL
        assert n_damaged(work.store) == 0
    work.embed()
    assert_whole(work.store, expected)


@pytest.mark.parametrize(
    ("soonest", "least"), [(60, 1), pytest.param(15, 3, marks=slow)]
)
def test_killed_again_and_again_it_gets_there(soonest, least, work):
    expected = work.undisturbed()
    chance = random.Random(0)
    n_kills, n_done = 0, 0
    while (status := work.command(at=chance.randint(soonest, 70)).wait()) != 0:
        assert status == -signal.SIGKILL
        n_kills += 1
        assert n_damaged(work.store) == 0
        found = read_by_digest(work.store)
        assert_part_of(found, expected)
        assert len(found) >= n_done, "work was lost"
        n_done = len(found)
    assert n_kills >= least
    assert_whole(work.store, expected)


@pytest.mark.parametrize(
    ("where", "at"),
    [
        ("features/c", 2),
        ("records", 3),
        *(
            pytest.param(where, at, marks=slow)
            for where, at in [
                ("features/c", 3),
                ("records", 2),
                ("claims", 2),
                ("claims", 3),
            ]
        ),
    ],
)
def test_killed_while_a_file_is_written(where, at, work):
    expected = work.undisturbed()
    assert work.command(at=at, where=f"{where}/").wait() == -signal.SIGKILL
    assert n_damaged(work.store) == 0
    assert work.command().wait() == 0
    assert_whole(work.store, expected)


def test_killed_by_somebody_else(work):
    expected = work.undisturbed()
    command = work.command(**HALFWAY)
    command.wait_for_stop()
    command.send(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    done = len(work.records())
    assert 1 <= done < N
    again = work.command()
    assert again.wait() == 0
    assert counted(again.text) == (N - done, done)
    assert_whole(work.store, expected)


# -- power off -------------------------------------------------------------------------


def damage(path, how, chance):
    content = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
        return
    if how == "truncate":
        content = content[: chance.randrange(len(content))]
    elif how == "zero":
        content = bytearray(len(content))
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def put_right(work):
    """Run again, after a repair where that is asked for."""
    if is_asked_for_repair(work.embed):
        run_steps(repair(work.store))
        work.embed()


def is_asked_for_repair(action):
    """Tell whether it fails, and says how that is put right."""
    try:
        action()
    except DamagedStoreError as error:
        reason = str(error)
    else:
        return False
    assert "napari-samseg cache repair" in reason
    return True


def check_damage(work, expected, seed):
    chance = random.Random(seed)
    files = sorted(path for path in work.store.rglob("*") if path.is_file())
    for path in chance.sample(files, 3):
        damage(path, chance.choice(["truncate", "flip", "zero", "delete"]), chance)
    is_asked_for_repair(lambda: assert_part_of(read_by_digest(work.store), expected))
    put_right(work)
    assert_whole(work.store, expected)


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 6), marks=slow)])
@pytest.mark.parametrize("planes", [(0, N), (0, 5)], ids=["finished", "half"])
def test_files_that_the_power_took(planes, seeds, work):
    expected = work.undisturbed()
    work.embed(planes=planes)
    sound = work.store.rename(work.folder / "sound")
    for seed in seeds:
        shutil.rmtree(work.store, ignore_errors=True)
        shutil.copytree(sound, work.store)
        check_damage(work, expected, seed)


HOW = ["truncate", "zero", "delete"]
NAMES = ["*/zarr.json", "*/features/zarr.json", "*/records/3", "*/features/c/3/0/0/0/0"]
# each file once, in one of the ways
QUICK = {(HOW[i % 3], name) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("how", "name"),
    [
        pytest.param(how, name, marks=() if (how, name) in QUICK else slow)
        for how in HOW
        for name in NAMES
    ],
)
def test_the_next_run_repairs_an_entry_by_itself(how, name, work):
    expected = work.undisturbed()
    work.embed()
    (path,) = work.store.glob(name)
    damage(path, how, random.Random(0))
    report = work.embed()
    assert report.encoded == ("zarr.json" not in name)
    assert_whole(work.store, expected)


def test_the_last_files_never_reached_the_disk(work):
    expected = work.undisturbed()
    work.embed()
    files = [path for path in work.store.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)[-9:]:
        path.write_bytes(b"")
    assert_part_of(read_by_digest(work.store), expected)
    work.embed()
    assert_whole(work.store, expected)


# -- a full disk -----------------------------------------------------------------------


def test_a_file_that_grows_no_more(work):
    expected = work.undisturbed()
    command = work.command(at=1, where="features/c/3/", what="limit")
    assert command.wait() == 2
    assert_is_one_error(command.text, "cannot be written: File too large")
    done = len(work.records())
    assert 0 < done < N
    assert_part_of(read_by_digest(work.store), expected)
    assert work.embed().kept == done
    assert_whole(work.store, expected)


@contextmanager
def small_disk(folder, size):
    """Mount a disk in memory of some megabytes, which only root may do."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("moment", ["between", "while writing"])
def test_a_full_disk(moment, work):
    expected = work.undisturbed()
    with small_disk(work.folder / "disk", 80):
        work.store = work.folder / "disk" / "store"
        if moment == "between":
            command = work.command(**HALFWAY)
            command.wait_for_stop()
            fill_disk(work.store.parent)
            command.send(signal.SIGCONT)
            message = ": make room"
        else:
            command = work.command(at=1, where="features/c/3/", what="fill")
            message = "No space left on device; what was finished is kept: make room"
        assert command.wait() == 2
        assert_is_one_error(command.text, message)
        done = len(work.records())
        assert 0 < done < N
        assert_part_of(read_by_digest(work.store), expected)
        (work.store.parent / "filler").unlink()
        assert work.embed().kept == done
        assert_whole(work.store, expected)


def assert_is_one_error(text, message):
    lines = text.splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")
    assert len(lines) == 2, text  # the other is the estimate
    assert "Traceback" not in text


# -- several at once -------------------------------------------------------------------


def test_two_processes_share_the_planes(work):
    expected = work.undisturbed()
    commands = [work.command() for _ in range(2)]
    assert [command.wait() for command in commands] == [0, 0]
    counts = [counted(command.text) for command in commands]
    assert all(sum(count) == N for count in counts)
    assert sum(encoded for encoded, _ in counts) == N
    assert_whole(work.store, expected)


def test_one_of_two_is_killed_and_the_other_does_its_share(work):
    # more than the first one claims ahead, however slowly it encodes
    many = 3 * N
    work.write(make_volume(many, SIZE))
    expected = work.undisturbed()
    first = work.command(**HALFWAY)
    first.wait_for_stop()
    assert first.pid in claimants(work.store)
    # it goes round what the first one has claimed, and stops in its turn
    second = work.command(**HALFWAY | {"at": 3})
    second.wait_for_stop()
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert len(work.records()) < many
    second.send(signal.SIGCONT)
    assert second.wait() == 0
    assert sum(counted(second.text)) == many
    assert_whole(work.store, expected)


def claimants(store):
    """Return the numbers of the processes that hold claims."""
    found = set()
    for path in store.glob("*/claims/*[0-9]"):
        try:
            found.add(json.loads(path.read_bytes())["pid"])
        except FileNotFoundError:
            continue  # just given up
    return found


def test_a_reader_while_others_write(work):
    """Also while all planes are written again, because the image changed."""
    expected, seen = {}, set()
    for seed in range(2):
        work.write(np.random.default_rng(seed).integers(0, 999, (N, *SIZE), np.uint16))
        expected |= work.undisturbed()
        command = work.command(**HALFWAY)
        command.wait_for_stop()
        seen.add(len(read_by_digest(work.store)))
        command.send(signal.SIGCONT)
        while command.is_running:
            assert_part_of(read_by_digest(work.store), expected)
            time.sleep(0.02)
        assert command.wait() == 0
        seen.add(len(read_by_digest(work.store)))
    assert len(seen) >= 2
    assert_whole(work.store, work.undisturbed())


# -- cancelled -------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_finished(work):
    expected = work.undisturbed()
    command = work.command(**HALFWAY)
    command.wait_for_stop()
    command.send(signal.SIGINT)
    command.send(signal.SIGCONT)
    assert command.wait() == 130
    lines = command.text.splitlines()
    assert lines[-1] == (
        f"stopped: planes that are finished are kept in {work.store}; the same command "
        "goes on from there"
    )
    assert "Traceback" not in command.text
    done = work.n_whole()
    assert 1 <= done < N
    assert claimants(work.store) == set()
    again = work.command()
    assert again.wait() == 0
    assert counted(again.text) == (N - done, done)
    assert_whole(work.store, expected)


# -- another image ---------------------------------------------------------------------


@pytest.mark.parametrize("changed", [[3], pytest.param([N // 2], marks=slow), range(N)])
def test_planes_that_changed_between_runs(changed, work):
    volume = make_volume(N, SIZE)
    work.embed(planes=(0, 6))
    volume[list(changed), 7, 7] += 500
    work.write(volume)
    kept = len(set(range(6)) - set(changed))
    report = work.embed()
    assert (report.encoded, report.kept) == (N - kept, kept)
    assert_whole(work.store, work.undisturbed())


@pytest.mark.parametrize(
    "change", ["planes", "size", pytest.param("dtype", marks=slow)]
)
def test_another_image_under_the_same_name(change, work):
    before = work.undisturbed()
    work.embed()
    volume = make_volume(N, SIZE)
    changes = {
        "planes": volume[:5],
        "size": volume[:, 10:],
        "dtype": volume.astype(np.float32),
    }
    work.write(changes[change])
    report = work.embed()
    assert (report.encoded, report.kept) == (len(changes[change]), 0)
    # the other image's embeddings are of use if it comes back
    expected = before | work.undisturbed()
    assert_whole(work.store, expected)
