"""The command that encodes stacks, on real files, and what `segment` makes of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import distributed
import numpy as np
import pytest
import tifffile
import zarr
from embedding_jobs import make_volume, read_all
from ome_zarr_images import write_image
from PIL import Image
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.cache import keys
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.cluster import embed_on_cluster
from napari_samseg.core.embed.file_job import FileJob
from napari_samseg.core.images import open_image
from napari_samseg.core.models import batching, load_model
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.steps import run_steps

N_PLANES = 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def call():
    """Run a command; return exit status, output, messages."""

    def call(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def run(call, tiny_checkpoint, tmp_path):
    """Encode into a store of this test, with the small model."""

    def run(image, *arguments, out=tmp_path / "store"):
        return call(
            *("embed", image, "--out", out, "--model", tiny_checkpoint),
            *("--device", "cpu", *arguments),
        )

    return run


@pytest.fixture
def volume():
    return make_volume(N_PLANES)


@pytest.fixture
def stack(volume, tmp_path):
    return write_tiff(tmp_path / "stack.tif", volume)


def write_tiff(path, volume, **options):
    """A page for each plane, compressed by itself."""
    tifffile.imwrite(
        path,
        volume,
        photometric="minisblack",
        compression="zlib",
        rowsperstrip=volume.shape[1],
        **options,
    )
    return path


def write_big_endian(path, volume):
    return write_tiff(path, volume.astype(">u2"), byteorder=">")


def write_npy(path, volume):
    np.save(path, volume)
    return path


def write_zarr(path, volume):
    zarr.save_array(path, volume)
    return path


def write_ome_4(path, volume):
    write_image(path, volume, axes="zyx", version="0.4")
    return path


def write_ome_5(path, volume):
    write_image(path, volume, axes="zyx", version="0.5")
    return path


def expect_features(store, planes, checkpoint):
    """The store holds what the model makes of these planes, and nothing else."""
    model = load_model(checkpoint, device="cpu")
    found = {place: features for (place, _), features in read_all(store).items()}
    assert set(found) == set(planes)
    for place, pixels in planes.items():
        pixels = measure_plane(open_image(pixels)).read()
        expected = model.encode(pixels).features["image_embed"]
        np.testing.assert_allclose(found[place], expected, atol=2e-3, rtol=1e-3)


def test_a_zip_file_is_refused_before_the_model_is_loaded(run, stack, tmp_path):
    status, _, messages = run(stack, "--model", "gone.pth", out=tmp_path / "s.zip")
    assert status == 2
    assert "only be read" in messages
    assert "cache export" in messages
    assert not (tmp_path / "s.zip").exists()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("stack.tif", write_tiff),
        ("big endian.tif", write_big_endian),
        ("stack.npy", write_npy),
        ("stack.zarr", write_zarr),
        ("ome 4.zarr", write_ome_4),
        ("ome 5.zarr", write_ome_5),
    ],
)
def test_stacks_in_any_file(run, volume, tmp_path, tiny_checkpoint, name, write):
    status, output, messages = run(write(tmp_path / name, volume))
    assert (status, messages) == (0, "")
    assert "4 of 4 planes to encode, 4 tiles" in output
    assert "4 planes encoded, 0 there before" in output
    assert f"store: {tmp_path / 'store'}" in output
    planes = {(z,): volume[z] for z in range(N_PLANES)}
    expect_features(tmp_path / "store", planes, tiny_checkpoint)


def test_a_channel_and_a_level_of_an_ome_zarr_image(
    run, tmp_path, volume, tiny_checkpoint
):
    write_image(tmp_path / "i.zarr", np.stack([volume, volume[::-1]]), version="0.5")
    status, _, _ = run(tmp_path / "i.zarr", "--channels", 1, "--level", 1)
    assert status == 0
    planes = {(z,): volume[N_PLANES - 1 - z, ::2, ::2] for z in range(N_PLANES)}
    expect_features(tmp_path / "store", planes, tiny_checkpoint)


def test_a_picture_is_a_stack_of_one(run, tmp_path, tiny_checkpoint):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    status, output, _ = run(tmp_path / "picture.png")
    assert status == 0
    assert "1 of 1 plane to encode" in output
    expect_features(tmp_path / "store", {(): pixels}, tiny_checkpoint)


@pytest.mark.parametrize(
    ("text", "places"),
    [("1:3", {1, 2}), (":2", {0, 1}), ("2:", {2, 3}), ("3", {3}), (":", {0, 1, 2, 3})],
)
def test_a_range_of_planes(run, stack, tmp_path, text, places):
    assert run(stack, "--planes", text)[0] == 0
    store = EmbeddingStore(tmp_path / "store")
    assert store.open_entry(store.digests()[0]).recorded() == places


def test_what_is_there_is_not_encoded_again(run, stack):
    run(stack, "--planes", "1:3")
    status, output, _ = run(stack)
    assert status == 0
    assert "2 of 4 planes to encode" in output
    assert "2 planes encoded, 2 there before" in output
    assert "0 planes encoded, 4 there before" in run(stack)[1]


def test_an_estimate_writes_nothing(run, call, stack, tmp_path, tiny_checkpoint):
    status, output, messages = run(stack, "--estimate")
    assert (status, messages) == (0, "")
    assert "4 of 4 planes to encode, 4 tiles, " in output
    assert " kB on disk, " in output
    assert output.count("\n") == 1
    assert not (tmp_path / "store").exists()
    call("embed", stack, "--estimate", "--model", tiny_checkpoint)
    assert not (tmp_path / "cache" / "embeddings").exists()


def test_the_cache_folder_is_the_place_where_none_is_named(
    call, stack, tmp_path, tiny_checkpoint
):
    status, output, _ = call("embed", stack, "--model", tiny_checkpoint)
    assert status == 0
    assert f"store: {tmp_path / 'cache' / 'embeddings'}" in output
    assert len(read_all(tmp_path / "cache" / "embeddings")) == N_PLANES
    assert call("cache", "verify")[0] == 0


def test_the_store_may_be_a_url_and_of_eight_bits(run, stack):
    url = "memory://samseg-embed/store"
    assert run(stack, "--storage", "uint8", out=url)[0] == 0
    (recipe,) = EmbeddingStore(url, write=False).recipes().values()
    assert (recipe.storage, recipe.image) == ("uint8", str(stack))
    assert len(read_all(url)) == N_PLANES


def test_tiles_are_as_large_as_asked_for(run, stack, tmp_path):
    status, output, _ = run(stack, "--tile", 32, "--overlap", 0, "--planes", "0")
    assert status == 0
    found = {tile for _, tile in read_all(tmp_path / "store")}
    assert {(0, 0, 32, 32), (0, 0, 48, 60)} < found
    assert f"{len(found)} tiles" in output


@pytest.fixture
def damaged(stack, tmp_path):
    """The stack with a page in the middle that cannot be unpacked."""
    with tifffile.TiffFile(stack) as tiff:
        page = tiff.pages[2]
        (offset,), (count,) = page.dataoffsets, page.databytecounts
    path = tmp_path / "damaged.tif"
    content = bytearray(stack.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    return path


def test_unreadable_planes_are_skipped_and_listed_where_wanted(
    run, stack, damaged, tmp_path
):
    status, output, messages = run(damaged, "--skip-unreadable")
    assert status == 1
    assert "3 planes encoded" in output
    assert messages.startswith("plane 2 was skipped: ")
    assert messages.count("\n") == 1
    assert {place for place, _ in read_all(tmp_path / "store")} == {(0,), (1,), (3,)}
    shutil.copy(stack, damaged)
    status, output, _ = run(damaged)
    assert status == 0
    assert "1 plane encoded, 3 there before" in output


def test_an_unreadable_plane_ends_the_job_and_what_is_finished_stays(
    run, damaged, tmp_path
):
    status, _, messages = run(damaged)
    assert status == 2
    assert messages.startswith("error: ")
    assert f"{damaged}: plane 2 cannot be read: " in messages
    assert "--skip-unreadable" in messages
    assert {(0,), (1,)} <= {place for place, _ in read_all(tmp_path / "store")}


def test_contrast_of_a_volume_with_an_unreadable_plane(run, damaged):
    status, _, messages = run(damaged, "--scope", "volume", "--skip-unreadable")
    assert status == 1
    assert messages.startswith("plane 2 was skipped: ")


def zero_planes(path):
    return write_npy(path / "none.npy", np.zeros((0, 48, 60), np.uint16))


def no_image(path):
    return path / "nowhere.tif"


def image_folder(path):
    (path / "pictures").mkdir()
    return path / "pictures"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--planes", "one:2"], "--planes takes START:STOP"),
        (["--planes", "1:2:3"], "--planes takes START:STOP"),
        (["--planes", "2:9"], "within 0:4"),
        (["--planes", "3:3"], "within 0:4"),
        (["--planes", "4"], "within 0:4"),
        (["--planes=-1:2"], "within 0:4"),
        (["--level", "1"], "resolution level 1 is not in an image of 1 levels"),
        (["--channels", "1"], "there is no channel 1"),
        (["--channel-axis", "5"], "stack.tif: channel_axis 5 is not an axis"),
        (["--storage", "int4"], "'int4' is not one of float16"),
        (["--tile", "8"], "tiles of 8 px are too small"),
        (["--model", "vit_q"], "there is no model 'vit_q'"),
        (no_image, "nowhere.tif"),
        (zero_planes, "none.npy: the image of shape (0, 48, 60) has no pixels"),
        (image_folder, "pictures cannot be read as an image: it is a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, stack, tmp_path, options, message):
    image, flags = stack, options
    if callable(options):
        image, flags = options(tmp_path), []
    status, output, messages = run(image, *flags)
    assert status == 2
    assert messages.startswith("error: ")
    assert message in messages
    assert messages.count("\n") == 1
    assert output == ""
    assert not (tmp_path / "store").exists()


def write_notes(store):
    store.mkdir()
    (store / "notes.txt").touch()


def write_newer(store):
    EmbeddingStore(store)
    path = store / "zarr.json"
    document = json.loads(path.read_text())
    from napari_samseg.core.cache.seal import sealed

    about = {"kind": "napari-samseg embeddings", "schema": 99}
    document["attributes"]["napari_samseg"] = sealed(about)
    path.write_text(json.dumps(document))


def write_ome_image(store):
    write_image(store, make_volume(1)[None])


def write_ome_image_5(store):
    write_image(store, make_volume(1)[None], version="0.5")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_notes, "but other files: choose a store, or a new or empty folder"),
        (write_newer, "made by a newer version (schema 99"),
        (write_ome_image, "but other files"),
        (write_ome_image_5, "is something else than embeddings"),
        (Path.touch, "is a file, not a folder of embeddings"),
    ],
)
def test_what_lies_in_the_place_of_the_store_is_left_alone(
    run, stack, tmp_path, write, message
):
    store = tmp_path / "store"
    write(store)
    before = sorted(store.rglob("*"))
    status, _, messages = run(stack)
    assert status == 2
    assert message in messages
    assert messages.count("\n") == 1
    assert sorted(store.rglob("*")) == before


def test_a_store_that_may_not_be_written_is_said_before_encoding(
    run, stack, monkeypatch
):
    run(stack, "--planes", "0")
    monkeypatch.setattr(keys.os, "access", lambda path, mode: mode != os.W_OK)
    status, _, messages = run(stack)
    assert status == 2
    assert "can only be read: choose another place" in messages


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may do anything")
def test_permissions_of_the_file_system_are_told(run, stack, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    status, _, messages = run(stack, out=tmp_path / "locked" / "store")
    assert status == 2
    assert "ask its owner" in messages
    stack.chmod(0)
    status, _, messages = run(stack)
    assert status == 2
    assert f"{stack} cannot be read as an image" in messages


def test_workers_in_other_folders_understand_relative_paths(
    stack, tiny_checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tiny_checkpoint, tmp_path / "small.safetensors")
    monkeypatch.chdir(tmp_path)
    job = FileJob(
        Path(stack.name),
        location="store",
        model_settings=ModelSettings("small.safetensors", "cpu"),
    )
    options = {"n_workers": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster:
        steps = embed_on_cluster(job, cluster.scheduler_address)
        while next(steps).stage != "connecting to the cluster":
            pass
        # the workers are threads of this process
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert run_steps(steps).encoded == N_PLANES
    assert len(read_all(tmp_path / "store")) == N_PLANES


def test_a_scheduler_by_its_address(run, stack, tmp_path):
    options = {"n_workers": 1, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster:
        status, output, messages = run(stack, "--scheduler", cluster.scheduler_address)
    assert (status, messages) == (0, "")
    assert "4 planes encoded" in output
    assert len(read_all(tmp_path / "store")) == N_PLANES


# -- segment ---------------------------------------------------------------------------


@pytest.fixture
def segment(call, stack, tiny_checkpoint, tmp_path):
    """Segment plane 1; return exit status, labels or None, messages."""
    points = tmp_path / "points.csv"
    points.write_text("y,x\n20,30\n")

    def segment(*options):
        (tmp_path / "labels.tif").unlink(missing_ok=True)
        status, _, messages = call(
            *("segment", stack, "--points", points, "--plane", 1),
            *("--out", tmp_path / "labels.tif", "--model", tiny_checkpoint),
            *("--device", "cpu", *options),
        )
        labels = tmp_path / "labels.tif"
        return status, tifffile.imread(labels) if labels.exists() else None, messages

    return segment


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
def test_tiles_come_from_the_store(segment, run, tmp_path, monkeypatch, storage):
    _, expected, _ = segment()
    run(tmp_path / "stack.tif", "--storage", storage, "--planes", "1")

    def refuse(model, planes):
        raise AssertionError("a tile is encoded although it is in the store")

    monkeypatch.setattr(batching, "encode_planes_steps", refuse)
    status, labels, messages = segment("--embeddings", tmp_path / "store")
    assert (status, messages) == (0, "")
    assert (labels != expected).mean() < 0.01


def test_tiles_that_are_missing_are_put_there(segment, run, tmp_path):
    run(tmp_path / "stack.tif", "--planes", "0")
    status, _, _ = segment("--embeddings", tmp_path / "store")
    assert status == 0
    assert {place for place, _ in read_all(tmp_path / "store")} == {(0,), (1,)}


def test_a_moved_image_finds_its_embeddings(segment, run, tmp_path):
    shutil.copy(tmp_path / "stack.tif", tmp_path / "before.tif")
    run(tmp_path / "before.tif", "--planes", "1")
    assert segment("--embeddings", tmp_path / "store")[0] == 0
    assert len(EmbeddingStore(tmp_path / "store").digests()) == 1


def test_a_store_of_something_else_is_of_no_help(segment, run, tmp_path):
    status, labels, messages = segment("--embeddings", tmp_path / "store")
    assert (status, labels) == (2, None)
    assert "there is no store of embeddings in" in messages
    assert not (tmp_path / "store").exists()
    run(tmp_path / "stack.tif", "--normalisation", "minmax")
    status, labels, messages = segment("--embeddings", tmp_path / "store")
    assert (status, labels) == (2, None)
    assert "stack.tif made with this model and these settings: make them" in messages
    assert len(EmbeddingStore(tmp_path / "store").digests()) == 1
    options = ["--normalisation", "minmax", "--embeddings", tmp_path / "store"]
    assert segment(*options)[0] == 0
