"""The command line on real files, with a small model of random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data
from typer.testing import CliRunner

import napari_samseg
from napari_samseg.cli import app
from napari_samseg.core.io.prompt_writer import write_prompts
from napari_samseg.core.models import zoo
from napari_samseg.core.prompts.from_labels import sample_planes
from napari_samseg.core.settings import PromptSettings
from napari_samseg.core.tiled import TiledPlane
from napari_samseg.core.types import PlanePrompts


@pytest.fixture
def run(monkeypatch):
    """Run the command in a wide terminal; return exit status, output, messages."""
    from napari_samseg import cli

    monkeypatch.setattr(cli.output, "width", 200)

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def stack(tmp_path):
    coins = data.coins()[:96, :128]
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([coins, coins[::-1]]), photometric="minisblack")
    return path


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("object,y,x\n3,20,30\n5,60,90\n")
    return path


@pytest.fixture
def boxes(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("y0,x0,y1,x1\n5,5,40,60\n")
    return path


def test_version(run):
    status, output, _ = run("--version")
    assert status == 0
    assert output == f"napari-samseg {napari_samseg.__version__}\n"


def test_objects_that_lie_under_others_are_named(run, stack, tmp_path):
    prompts = tmp_path / "twice.csv"
    prompts.write_text("object,y,x\n3,20,30\n5,20,30\n7,60,90\n")
    status, output, _ = run(
        *("segment", stack, "--plane", 0, "--points", prompts),
        *("--out", tmp_path / "out.tif"),
    )
    assert status == 0
    written = set(np.unique(tifffile.imread(tmp_path / "out.tif")).tolist())
    (hidden,) = {3, 5} - written
    assert "1 of them wholly under masks of a higher predicted IoU, " in output
    assert f"and not in the labels: {hidden}" in output


def test_of_many_objects_the_least_certain_are_listed(run, stack, tmp_path):
    points = "".join(f"{i},20,{10 * i}\n" for i in range(1, 10))
    prompts = tmp_path / "many.csv"
    prompts.write_text(f"object,y,x\n{points}")
    asked = ("--points", prompts, "--out", tmp_path / "out.tif")
    status, output, _ = run("segment", stack, "--plane", 0, *asked)
    assert status == 0
    first, *lines = output.splitlines()
    assert first == "9 objects; of the lowest predicted IoU are:"
    rows = [line for line in lines if line.lstrip("\u2502| ")[:1].isdigit()]
    assert len(rows) == 5


def test_segment_writes_the_labels_of_one_plane(
    run, stack, points, tiny_checkpoint, tmp_path
):
    out, overlay = tmp_path / "out" / "labels.tif", tmp_path / "overlay.png"
    status, output, messages = run(
        *("segment", stack, "--points", points, "--out", out, "--plane", 1),
        *("--overlay", overlay, "--model", tiny_checkpoint, "--device", "cpu"),
    )
    assert (status, messages) == (0, "")
    prediction = napari_samseg.segment(
        tifffile.imread(stack),
        points=[(20, 30), (60, 90)],
        plane=1,
        model=tiny_checkpoint,
        device="cpu",
    )
    labels = tifffile.imread(out)
    assert labels.shape == (96, 128)
    expected = np.array([0, 3, 5])[prediction.to_labels()]
    np.testing.assert_array_equal(labels, expected)
    with Image.open(overlay) as picture:
        assert picture.size == (128 * 9, 96 * 9)
    assert str(out) in output
    assert str(overlay) in output


def test_prompts_of_all_three_kinds_of_file_are_taken(
    run, stack, boxes, tiny_checkpoint, tmp_path
):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"object": 2, "points": [[60, 90]]}]))
    out = tmp_path / "labels.tif"
    status, output, _ = run(
        *("segment", stack, "--boxes", boxes, "--prompts", prompts, "--out", out),
        *("--plane", 0, "--model", tiny_checkpoint, "--normalisation", "minmax"),
    )
    assert status == 0
    assert {line.split()[1] for line in output.splitlines() if "0." in line} == {
        "1",
        "2",
    }


@pytest.mark.parametrize("kind", ["mask", "boxes"])
def test_prompts_as_npz_are_those_of_the_plane(
    run, stack, tiny_checkpoint, tmp_path, monkeypatch, kind
):
    labels = np.zeros((2, 96, 128), np.uint8)
    labels[:, 20:50, 30:70], labels[1, 60:90, 80:120] = 4, 9
    prompts = tmp_path / "p.npz"
    chosen = PromptSettings(mask=True, box="none") if kind == "mask" else None
    given = dict(sample_planes(labels, chosen or PromptSettings()))
    write_prompts(prompts, given)
    seen = []
    predict = TiledPlane.predict_steps

    def noting(self, prompts, **more):
        seen.append(prompts)
        return predict(self, prompts, **more)

    monkeypatch.setattr(TiledPlane, "predict_steps", noting)
    out = tmp_path / "labels.tif"
    flags = ("--plane", 1, "--model", tiny_checkpoint)
    status, _, errors = run(
        "segment", stack, "--prompts", prompts, "--out", out, *flags
    )
    assert status == 0, errors
    (found,) = seen
    for name in PlanePrompts.__dataclass_fields__:
        expected = getattr(given[(1,)], name)
        if expected is None:
            assert getattr(found, name) is None
        else:
            np.testing.assert_array_equal(getattr(found, name), expected)
    assert found.has_mask.all() == (kind == "mask")
    assert set(np.unique(tifffile.imread(out)).tolist()) <= {0, 4, 9}


def test_channel_options_reach_the_image(run, boxes, tiny_checkpoint, tmp_path):
    channels = np.random.default_rng(0).integers(0, 255, (2, 96, 128), np.uint8)
    image = tmp_path / "channels.npy"
    np.save(image, channels)
    outs = [tmp_path / f"{i}.tif" for i in range(2)]
    for i, out in enumerate(outs):
        status, _, messages = run(
            *("segment", image, "--boxes", boxes, "--out", out),
            *("--channel-axis", 0, "--channels", i, "--model", tiny_checkpoint),
        )
        assert (status, messages) == (0, "")
    expected = napari_samseg.segment(
        channels[1], boxes=[(5, 5, 40, 60)], model=tiny_checkpoint
    )
    np.testing.assert_array_equal(tifffile.imread(outs[1]), expected.to_labels())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": "nowhere.tif"}, "there is no image nowhere.tif"),
        ({"--points": "nowhere.csv"}, "there is no file nowhere.csv"),
        ({"--points": None}, "Give a file of points, boxes or prompts"),
        ({"--out": "labels.jpg"}, "not as 'labels.jpg'"),
        ({"--overlay": "overlay.jpg"}, "not as 'overlay.jpg'"),
        ({"--plane": "7"}, "plane 7 is outside axis 0 of length 2"),
        ({"--plane": "one"}, "--plane takes whole numbers"),
        ({"--plane": None}, "choose one plane"),
        ({"--model": "vit_q"}, "there is no model 'vit_q'"),
        ({"--model": "nowhere.pth"}, "nowhere.pth"),
        ({"--device": "quantum"}, "device 'quantum' is not on this machine"),
        ({"--precision": "float8"}, "'float8' is not one of fast, exact"),
        ({"--normalisation": "most"}, "'most' is not one of percentile"),
        ({"--low": "99.95"}, "must be below the high one"),
        ({"--out": "."}, "labels are written as .tif"),
        ({"--plane": "0,0"}, "choose one plane"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    run, stack, points, tiny_checkpoint, tmp_path, changed, message
):
    options = {
        "image": stack,
        "--points": points,
        "--out": tmp_path / "labels.tif",
        "--plane": "0",
        "--model": tiny_checkpoint,
        **changed,
    }
    image = options.pop("image")
    flags = [part for pair in options.items() if pair[1] is not None for part in pair]
    status, output, messages = run("segment", image, *flags)
    assert status == 2
    assert message in messages
    assert messages.startswith("error: ")
    assert messages.count("\n") == 1
    assert output == ""
    assert not (tmp_path / "labels.tif").exists()


@pytest.mark.parametrize("place", ["folder.tif", "file/labels.tif", "image"])
def test_what_cannot_or_must_not_be_written_is_refused_at_once(
    run, stack, points, tmp_path, place
):
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "file").touch()
    before = stack.read_bytes()
    out = stack if place == "image" else tmp_path / place
    status, _, messages = run(
        "segment", stack, "--points", points, "--plane", "0", "--out", out
    )
    assert status == 2
    assert messages.count("\n") == 1
    assert any(
        reason in messages for reason in ("is a folder", "is a file", "is what is read")
    )
    assert stack.read_bytes() == before
    status, _, messages = run("demo", "--out", tmp_path / "file")
    assert status == 2
    assert "is a file: choose another folder" in messages


def test_models_are_listed_with_what_is_here(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path))
    (tmp_path / zoo.ZOO["vit_t"].checkpoint.file_name).touch()
    status, output, _ = run("models", "list")
    assert status == 0
    cells = [line.split("│") for line in output.splitlines() if "│" in line]
    here = {row[1].strip(): row[2].strip() for row in cells}
    assert set(here) == {"default", *zoo.ZOO}
    assert {name for name, value in here.items() if value} == {"default", "vit_t"}
    sizes = {row[1].strip(): row[3].strip() for row in cells}
    assert sizes["vit_b"] == "375 MB"
    assert sizes["vit_b_lm"] == "about 375 MB"
    assert f"folder: {tmp_path}" in output


def test_info_on_the_embedded_model(run):
    status, output, _ = run("models", "info", "default")
    assert status == 0
    for text in ("Nuclei, cells, axons", "10.5 MB", "BSD-3-Clause", "samseg_tiny"):
        assert text in output


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_info_says_where_from_which_licence_and_whom_to_cite(run, name):
    entry = zoo.ZOO[name]
    status, output, _ = run("models", "info", name)
    assert status == 0
    for text in (entry.licence, entry.citation, entry.checkpoint.url):
        assert text in output
    assert entry.checkpoint.hash in output


def test_a_download_that_cannot_be_says_where_to_put_the_file(
    run, monkeypatch, tmp_path
):
    entry = zoo.ZOO["vit_t"]
    unreachable = zoo.RemoteFile("m.pt", "http://127.0.0.1:9/m.pt", "md5:0")
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path))
    monkeypatch.setitem(
        zoo.ZOO,
        "vit_t",
        zoo.PretrainedModel(
            "vit_t", "mobile_sam", "", unreachable, entry.licence, entry.citation
        ),
    )
    status, _, messages = run("models", "download", "vit_t")
    assert status == 2
    assert str(tmp_path / "m.pt") in messages
    assert run("models", "download", "vit_q")[0] == 2


def test_demo_says_what_it_did_how_well_and_how_long(run, monkeypatch, tmp_path):
    from napari_samseg.core import demo

    monkeypatch.setattr(demo, "DEMO_IMAGES", {"cell": demo.DEMO_IMAGES["cell"]})
    status, output, messages = run("demo", "--out", tmp_path, "--device", "cpu")
    assert (status, messages) == (0, "")
    assert "model default on cpu" in output
    (row,) = (line for line in output.splitlines() if "point" in line)
    iou = float(row.split("│")[-2])
    assert 0.7 < iou <= 1
    assert f"worst {iou:.2f}" in output
    for step in ("read", "find objects", "encode", "decode", "write"):
        assert f"{step} " in output
    assert (tmp_path / "cell_labels.tif").is_file()
    assert (tmp_path / "cell_overlay.png").is_file()


def test_viewer_without_a_display_is_declined(run, monkeypatch, tmp_path):
    from napari_samseg import cli
    from napari_samseg.core import demo

    report = demo.DemoReport("small", "cpu", 0.0, ())
    monkeypatch.setattr(cli.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def no_steps(folder, settings):
        yield demo.Progress("nothing")
        return report

    monkeypatch.setattr(demo, "run_demo", no_steps)
    status, _, messages = run("demo", "--out", tmp_path, "--viewer")
    assert status == 0
    assert "there is no display" in messages
