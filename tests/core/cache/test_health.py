"""Whatever happens to a file of a store is found, and put right."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import zipfile

import numpy as np
import pytest
from embedding_stores import RECIPE, SHORT, fill, get, put

from napari_samseg.core.cache import health, layout
from napari_samseg.core.cache.claims import Claims
from napari_samseg.core.cache.health import repair, verify
from napari_samseg.core.cache.keys import StoreKeys
from napari_samseg.core.cache.manage import export_zip
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.errors import CacheError, DamagedStoreError
from napari_samseg.core.types import PlaneEmbedding

PLANES = ((0,), (1,))


def run(steps):
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of a store with one entry, and what is in it."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    entry = fill(EmbeddingStore(folder))
    expected = {
        (plane, tile): get(entry, plane, tile).features["image_embed"]
        for plane in PLANES
        for tile in range(2)
    }
    return folder, expected


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(whole[0], tmp_path / "store")


def assert_nothing_else(entry, expected):
    """What is got is what was put, or nothing; return how often it is something."""
    found = 0
    for (plane, tile), features in expected.items():
        got = get(entry, plane, tile)
        if got is not None:
            found += 1
            np.testing.assert_array_equal(got.features["image_embed"], features)
            assert (got.original_size, got.input_size) == ((30, 30), (64, 64))
    return found


def is_reported(folder):
    try:
        return not run(verify(EmbeddingStore(folder, write=False))).is_sound
    except DamagedStoreError as error:
        return "cache repair" in str(error)


FILES = [
    "zarr.json",
    "{}/zarr.json",
    "{}/features/zarr.json",
    "{}/features/c/0/0/0/0/0",
    "{}/features/c/1/0/0/0/0",
    "{}/records/0",
    "{}/records/1",
    "{}/used",
]


def test_these_are_all_files(whole):
    found = {str(p.relative_to(whole[0])) for p in whole[0].rglob("*") if p.is_file()}
    assert found == {name.format(SHORT.digest) for name in FILES}


def damages(name, size):
    """Contents after a power cut at several moments, and after single bits flip."""
    draw = random.Random(name)
    for keep in (0, size // 3, size - 1):
        yield f"cut after {keep}", lambda content, keep=keep: content[:keep]
    for _ in range(2):
        position, bit = draw.randrange(size), draw.randrange(8)

        def flip(content, position=position, bit=bit):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            return bytes(flipped)

        yield f"bit {bit} of byte {position}", flip


@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_found_and_put_right(whole, tmp_path, name):
    original, expected = whole
    content = (original / name.format(SHORT.digest)).read_bytes()
    for i, (what, damage) in enumerate(damages(name, len(content))):
        folder = shutil.copytree(original, tmp_path / str(i))
        (folder / name.format(SHORT.digest)).write_bytes(damage(content))
        # some bits of compressed data mean nothing
        reported = is_reported(folder)
        assert reported or "/c/" in name, what
        try:
            reader = EmbeddingStore(folder, write=False).entry(SHORT)
        except DamagedStoreError:
            pass
        else:
            found = assert_nothing_else(reader, expected)
            assert reported or found == len(expected), what
        # a writer comes upon it
        used = shutil.copytree(folder, tmp_path / f"{i}-used")
        if name != "zarr.json":
            writer = EmbeddingStore(used).entry(SHORT)
            assert_nothing_else(writer, expected)
            put_damaged(writer)
            run(repair(used))
            assert_is_whole(used, expected)
        # or it is repaired first
        run(repair(folder))
        put_damaged(EmbeddingStore(folder).entry(SHORT))
        assert_is_whole(folder, expected)


def put_damaged(entry):
    for place, plane in enumerate(PLANES):
        if entry.check(plane) != "sound":
            put(entry, plane, place)


def assert_is_whole(folder, expected):
    store = EmbeddingStore(folder, write=False)
    assert run(verify(store)).is_sound
    assert assert_nothing_else(store.entry(SHORT), expected) == len(expected)


@pytest.mark.parametrize("name", FILES[:3])
def test_metadata_that_are_gone_are_written_again(whole, folder, name):
    (folder / name.format(SHORT.digest)).unlink()
    assert is_reported(folder)
    assert any("written again" in line for line in run(repair(folder)))
    entry = EmbeddingStore(folder, write=False).entry(SHORT)
    assert assert_nothing_else(entry, whole[1]) == 4
    assert not is_reported(folder)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (FILES[0], r'"zarr_format": 3', '"zarr_format": 2'),
        (FILES[0], r'"node_type": "group"', '"node_type": "grouq"'),
        (FILES[1], r'"attributes"', '"attribute3"'),
        (FILES[1], r'"zarr_format": 3', '"zarr_format": 2'),
        (FILES[2], r'"clevel": 5', '"clevel": 4'),
        (FILES[2], r'"fill_value": 0', '"fill_value": 1'),
        (FILES[2], r'"data_type": "float16"', '"data_type": "float64"'),
    ],
)
def test_metadata_that_say_something_else_are_found(whole, folder, name, before, after):
    path = folder / name.format(SHORT.digest)
    text = path.read_text()
    assert re.search(before, text)
    path.write_text(re.sub(before, after, text, count=1))
    assert is_reported(folder)
    run(repair(folder))
    assert not is_reported(folder)
    assert assert_nothing_else(EmbeddingStore(folder).entry(SHORT), whole[1]) == 4


def test_a_writer_with_the_recipe_finds_what_lost_its_own(whole, folder):
    for name in ("zarr.json", "features/zarr.json"):
        (folder / SHORT.digest / name).write_bytes(b"{")
    (report,) = run(verify(EmbeddingStore(folder))).entries
    assert report.problems == ("its recipe cannot be read",)
    (line,) = run(repair(folder))
    assert "encode the same stack" in line
    entry = EmbeddingStore(folder).entry(SHORT)
    assert assert_nothing_else(entry, whole[1]) == 4
    assert not is_reported(folder)


def test_a_report_names_planes(tmp_path):
    entry = EmbeddingStore(tmp_path).entry(RECIPE)
    for plane in ((0, 0), (0, 1), (1, 0)):
        put(entry, plane, 0)
    (tmp_path / RECIPE.digest / "features" / "c" / "1" / "0/0/0/0").write_bytes(b"x")
    files = sorted(tmp_path.rglob("*"))
    (report,) = run(verify(EmbeddingStore(tmp_path, write=False))).entries
    assert sorted(tmp_path.rglob("*")) == files, "nothing is changed"
    assert report.recipe == RECIPE
    assert (report.sound, report.damaged) == (2, ((0, 1),))
    assert len(report.missing) == 9
    assert report.problems == ()
    steps = list(verify(EmbeddingStore(tmp_path, write=False), RECIPE.digest))
    assert [step.done for step in steps] == list(range(12))


def test_what_interrupted_writers_left_is_removed(folder):
    entry = folder / SHORT.digest
    (entry / "records" / "0").unlink()
    (entry / "claims").mkdir()
    (entry / "claims" / "1").write_text("{}")
    (entry / "records" / "1.abc.partial").write_text("{")
    (report,) = run(verify(EmbeddingStore(folder, write=False))).entries
    assert len(report.problems) == 3
    assert len(run(repair(folder))) == 3
    left = {str(p.relative_to(entry)) for p in entry.rglob("*") if p.is_file()}
    assert left == {
        "features/c/1/0/0/0/0",
        "features/zarr.json",
        "records/1",
        "used",
        "zarr.json",
    }


def test_all_files_of_a_plane_of_many_tiles_are_known(tmp_path):
    tiles = tuple((0, i, 8, i + 8) for i in range(layout.TILES_PER_FILE + 1))
    recipe = dataclasses.replace(SHORT, tiles=tiles, embedding_shape=(1, 2, 2))
    values = PlaneEmbedding({"image_embed": np.ones((1, 2, 2))}, (8, 8), (64, 64), "e")
    entry = EmbeddingStore(tmp_path).entry(recipe)
    for plane in PLANES:
        entry.put_tiles(plane, "pixels", dict.fromkeys(range(len(tiles)), values))
    assert not is_reported(tmp_path)
    (tmp_path / recipe.digest / "records" / "0").unlink()
    (report,) = run(verify(EmbeddingStore(tmp_path, write=False))).entries
    assert report.problems == ("2 files of features without a record",)
    run(repair(tmp_path))
    files = (tmp_path / recipe.digest / "features" / "c").rglob("*")
    assert len([path for path in files if path.is_file()]) == 2


def test_one_file_that_serves_nothing_is_one(folder):
    (folder / SHORT.digest / "records" / "0").unlink()
    (report,) = run(verify(EmbeddingStore(folder, write=False))).entries
    assert report.problems == ("1 file of features without a record",)
    assert "removed 1 file of features without a record" in str(run(repair(folder)))


def test_what_a_writer_is_at_stays(folder):
    entry = EmbeddingStore(folder).entry(SHORT)
    assert entry.claim((0,))
    (folder / SHORT.digest / "records" / "0").unlink()
    (folder / SHORT.digest / "records" / "0.abc.partial").write_text("{")
    (report,) = run(verify(EmbeddingStore(folder, write=False))).entries
    assert (report.missing, report.problems) == (((0,),), ())
    assert run(repair(folder)) == []
    assert (folder / SHORT.digest / "features" / "c" / "0").exists()


def test_a_plane_finished_during_a_repair_keeps_its_features(folder, monkeypatch):
    entry = EmbeddingStore(folder).entry(SHORT)
    record = folder / SHORT.digest / "records" / "0"
    content = record.read_bytes()
    assert entry.claim((0,))
    record.unlink()
    files = StoreKeys.files

    def finish(self, *args):
        names = files(self, *args)
        if not record.exists():
            record.write_bytes(content)
            entry.release((0,))
        return names

    monkeypatch.setattr(StoreKeys, "files", finish)
    assert run(repair(folder)) == []
    assert entry.check((0,)) == "sound"


def test_a_damaged_plane_that_a_writer_is_at_is_left_to_it(folder):
    entry = EmbeddingStore(folder).entry(SHORT)
    assert entry.claim((0,))
    record = folder / SHORT.digest / "records" / "0"
    record.write_text("{")
    assert run(repair(folder)) == []
    assert record.read_text() == "{"
    entry.release((0,))
    assert "1 damaged plane put into quarantine" in run(repair(folder))[0]


def test_a_plane_begun_after_the_look_keeps_its_features(folder, monkeypatch):
    entry = EmbeddingStore(folder).entry(SHORT)
    (folder / SHORT.digest / "records" / "0").unlink()
    look = health._left_behind

    def begin(keys):
        left = look(keys)
        assert entry.claim((0,))
        return left

    monkeypatch.setattr(health, "_left_behind", begin)
    assert run(repair(folder)) == []
    assert (folder / SHORT.digest / "features/c/0/0/0/0/0").exists()


def test_a_claim_taken_over_during_a_sweep_stays(folder, monkeypatch):
    entry = EmbeddingStore(folder).entry(SHORT)
    keys = EmbeddingStore(folder).keys(SHORT.digest)
    keys.set("claims/0", b"{}")
    files = StoreKeys.files

    def begin(self, *args):
        names = files(self, *args)
        monkeypatch.setattr(Claims, "live", lambda self: set())
        assert entry.claim((0,))
        return names

    monkeypatch.setattr(StoreKeys, "files", begin)
    health.sweep(keys, ())
    assert Claims(keys).is_live(0)


def test_quarantine_is_emptied_once_the_plane_is_there_again(folder):
    entry = EmbeddingStore(folder).entry(SHORT)
    (folder / SHORT.digest / "records" / "0").write_text("{")
    assert entry.quarantine((0,))
    assert not entry.quarantine((0,))
    assert entry.check((0,)) == "missing"
    assert run(repair(folder)) != []  # the features have no record any more
    quarantined = folder / SHORT.digest / "quarantine" / "0"
    assert quarantined.exists()
    put(entry, (0,), 0)
    assert not is_reported(folder)
    run(repair(folder))
    assert not quarantined.exists()


def test_entries_of_a_newer_version_are_left_alone(folder, monkeypatch):
    document = folder / SHORT.digest / "zarr.json"
    content = json.loads(document.read_text())
    about = content["attributes"][layout.ATTRIBUTE]
    about.pop("checksum")
    newer = layout.sealed(about | {"schema": 2})
    content["attributes"][layout.ATTRIBUTE] = newer
    document.write_text(json.dumps(content))
    store = EmbeddingStore(folder)
    assert store.recipes() == {}
    (report,) = run(verify(store)).entries
    assert "newer version" in report.problems[0]
    before = document.read_bytes()
    (line,) = run(repair(folder))
    assert "left alone" in line
    assert document.read_bytes() == before


def test_nothing_is_repaired_where_nothing_is(tmp_path):
    with pytest.raises(CacheError, match="no store"):
        run(repair(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(DamagedStoreError, match="delete it"):
        run(repair(tmp_path))


def test_a_damaged_zip_file_gives_what_was_put_or_nothing(whole, tmp_path):
    path = tmp_path / "store.zip"
    run(export_zip(EmbeddingStore(whole[0], write=False), None, path))
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(25):
        damaged = bytearray(content)
        # the table of contents at the end, too
        position = draw.choice([draw.randrange(len(content)), -draw.randrange(1, 900)])
        damaged[position] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            entry = EmbeddingStore(path, write=False).entry(SHORT)
        except CacheError:
            continue
        if entry is not None:
            assert_nothing_else(entry, whole[1])
    for keep in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        assert not zipfile.is_zipfile(path)
        with pytest.raises(CacheError, match="cut off"):
            EmbeddingStore(path, write=False)
