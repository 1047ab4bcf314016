"""The command that makes prompts from labels."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.io.prompt_planes import read_prompts
from napari_samseg.core.prompts.from_labels import sample_planes
from napari_samseg.core.settings import PromptSettings


@pytest.fixture
def call():
    runner = CliRunner()

    def call(*arguments):
        result = runner.invoke(app, [*map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr

    return call


@pytest.fixture
def volume(shared_data):
    path = shared_data / "em_fib25_neuroproof/gt_bodies.tif"
    return tifffile.imread(path, key=[0, 1, 2])[:, :150, :140]


@pytest.mark.parametrize("name", ["labels.tif", "labels.npy", "labels.zarr"])
def test_a_stack_of_any_kind(call, volume, tmp_path, name):
    path = tmp_path / name
    if name.endswith(".tif"):
        tifffile.imwrite(path, volume, photometric="minisblack")
    elif name.endswith(".npy"):
        np.save(path, volume)
    else:
        zarr.save_array(path, volume)
    status, output, errors = call(
        "prompts", path, "--out", tmp_path / "p.csv", "--kind", "jittered-box,random",
        "--points", 3, "--negatives", 1, "--jitter", 4, "--seed", 9,
    )  # fmt: skip
    assert (status, errors) == (0, "")
    n_objects = len(np.unique(volume[volume > 0]))
    assert output.startswith(f"{n_objects} objects, ")
    assert "in 3 planes" in output
    chosen = PromptSettings(
        "jittered-box", jitter=4, point="random", n_points=3, n_negatives=1, seed=9
    )
    found = read_prompts(tmp_path / "p.csv").planes
    for plane, prompts in sample_planes(volume, chosen):
        np.testing.assert_array_equal(found[plane].points_yx, prompts.points_yx)
        np.testing.assert_array_equal(found[plane].boxes_yx, prompts.boxes_yx)


def test_columns_for_people(call, shared_data, tmp_path):
    path = sorted((shared_data / "dsb2018/labels").glob("*.png"))[0]
    out = tmp_path / "p.npy"
    assert call("prompts", path, "--out", out)[0] == 0
    table, labels = np.load(out), np.array(Image.open(path))
    assert table.dtype.names[:2] == ("x0", "y0")
    for row in table:
        mask = labels == row["object"]
        assert mask[int(row["y0"]), int(row["x0"])]
        assert row["area"] == mask.sum()
        ends = mask[[0, -1]].any() or mask[:, [0, -1]].any()
        assert row["at_border"] == ends
        ys, xs = np.nonzero(mask)
        assert (row["bbox_min_y"], row["bbox_max_y"]) == (ys.min(), ys.max() + 1)
        assert (row["bbox_min_x"], row["bbox_max_x"]) == (xs.min(), xs.max() + 1)


def test_segment_takes_the_table(call, shared_data, tmp_path, tiny_checkpoint):
    name = sorted(p.name for p in (shared_data / "dsb2018/labels").glob("*.png"))[0]
    table, out = tmp_path / "p.csv", tmp_path / "masks.tif"
    labels = shared_data / "dsb2018/labels" / name
    assert call("prompts", labels, "--out", table, "--kind", "box")[0] == 0
    status, _, errors = call(
        "segment", shared_data / "dsb2018/images" / name, "--prompts", table,
        "--out", out, "--model", tiny_checkpoint,
    )  # fmt: skip
    assert status == 0, errors
    ids = set(np.unique(np.array(Image.open(labels))))
    assert set(np.unique(tifffile.imread(out))) <= ids


def test_masks_and_small_objects(call, tmp_path):
    labels = np.zeros((30, 30), np.uint16)
    labels[3:9, 3:9], labels[20, 20] = 5, 60000
    tifffile.imwrite(tmp_path / "l.tif", labels)
    status, output, _ = call(
        "prompts", tmp_path / "l.tif", "--out", tmp_path / "p.npz", "--kind",
        "mask,farthest", "--points", 2, "--mask-size", 64,
    )  # fmt: skip
    assert status == 0
    assert "2 objects, 3 points, 1 with fewer points than asked for" in output
    prompts = read_prompts(tmp_path / "p.npz").planes[()]
    assert prompts.low_res_masks.shape == (2, 64, 64)
    assert (prompts.low_res_masks[0] > 0).sum() > 100
    arguments = ("--min-area", 2, "--out", tmp_path / "p.json")
    status, output, _ = call("prompts", tmp_path / "l.tif", *arguments)
    assert "1 object, 1 point, 1 left out as too small" in output


def test_labels_saved_as_grey_rgb_or_whole_real_numbers(call, tmp_path):
    labels = np.zeros((40, 50), np.uint8)
    labels[5:20, 5:20], labels[22:30, 22:40] = 1, 7
    rgb = np.repeat(labels[..., np.newaxis], 3, axis=2)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    tifffile.imwrite(tmp_path / "real.tif", labels.astype(np.float32))
    for name in ("rgb.png", "real.tif"):
        status, output, _ = call(
            "prompts", tmp_path / name, "--out", tmp_path / f"{name}.csv"
        )
        assert (status, output.split(",")[0]) == (0, "2 objects")


def saved(folder, name, array):
    path = folder / name
    if array.ndim == 3 and array.shape[-1] == 3:
        Image.fromarray(array).save(path)
    else:
        tifffile.imwrite(path, array)
    return path


PLANE = np.pad(np.ones((5, 5), np.uint8), 10)


@pytest.mark.parametrize(
    ("name", "array", "options", "message"),
    [
        ("l.tif", PLANE * np.float32(0.5), (), "holds real numbers"),
        ("l.tif", PLANE.astype(np.int16) - 3, (), "negative labels, -3 is the lowest"),
        ("l.tif", PLANE * 0, (), "there is no object in"),
        ("l.tif", PLANE, ("--min-area", "99"), "99: 1 left out"),
        ("l.png", np.stack([PLANE * 200, PLANE, PLANE], -1), (), "coloured picture"),
        ("l.tif", PLANE, ("--kind", "circle"), "--kind: 'circle' is not one of box"),
        ("l.tif", PLANE, ("--kind", "box,jittered-box"), "exclude each other"),
        ("l.tif", PLANE, ("--kind", "mask"), "write an .npz"),
        ("l.tif", PLANE, ("--out", "p.xlsx"), "not as 'p.xlsx'"),
    ],
)
def test_wrong_uses_are_told_in_one_line(call, tmp_path, name, array, options, message):
    path = saved(tmp_path, name, array)
    out = tmp_path / "p.csv"
    status, _, errors = call("prompts", path, "--out", out, *options)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]
