"""Tables of prompts hold what was written, and say what is wrong with them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tifffile
from skimage.io import imread

from napari_samseg.core.errors import (
    InvalidPromptError,
    MissingDependencyError,
    MissingFileError,
)
from napari_samseg.core.io.prompt_planes import read_plane_rows, read_prompts
from napari_samseg.core.io.prompt_table import build_prompts, read_prompt_files
from napari_samseg.core.io.prompt_writer import (
    WRITERS,
    open_prompt_writer,
    write_prompts,
)
from napari_samseg.core.prompts.from_labels import sample_planes
from napari_samseg.core.settings import PromptSettings
from napari_samseg.core.types import PlanePrompts

SUFFIXES = sorted(WRITERS)
ASKED = [
    {},
    {"box": "gaussian-box", "point": "grid", "n_negatives": 2},
    {"box": "none", "point": "skeleton", "n_points": 4},
]
REFERENCE = "x0,y0,bbox_min_x,bbox_min_y,bbox_max_x,bbox_max_y"


@pytest.fixture
def neurons(shared_data):
    path = shared_data / "em_fib25_neuroproof/gt_bodies.tif"
    volume = tifffile.imread(path, key=[0, 120])[:, :130, :120]
    volume[1, :, :] = np.where(volume[1] == volume[0, 60, 60], volume[1], 0)
    return volume


def check_same(given, found):
    given = {plane: prompts for plane, prompts in given.items() if len(prompts)}
    assert list(found) == list(given)
    for plane, prompts in found.items():
        for name in PlanePrompts.__dataclass_fields__:
            before, after = getattr(given[plane], name), getattr(prompts, name)
            assert (before is None) == (after is None)
            if before is not None:
                np.testing.assert_array_equal(before, after, err_msg=name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("asked", ASKED)
def test_planes_come_back(neurons, tmp_path, suffix, asked):
    given = dict(sample_planes(neurons, PromptSettings(**asked)))
    write_prompts(tmp_path / f"p{suffix}", given)
    check_same(given, read_prompts(tmp_path / f"p{suffix}").planes)
    assert [p.name for p in tmp_path.iterdir()] == [f"p{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_plane_without_a_stack_comes_back(shared_data, tmp_path, suffix):
    path = next((shared_data / "dsb2018/labels").glob("*.png"))
    given = dict(sample_planes(imread(path), PromptSettings(point="interior")))
    write_prompts(tmp_path / f"p{suffix}", given)
    stored = read_prompts(tmp_path / f"p{suffix}")
    assert list(stored.planes) == [()]
    check_same(given, stored.planes)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_large_ids_and_two_axes_before_the_plane(tmp_path, suffix):
    labels = np.zeros((2, 3, 12, 12), np.int64)
    labels[1, 2, 2:5, 3:9], labels[0, 1, 4, 4] = 2**62 + 3, 7
    given = dict(sample_planes(labels, PromptSettings(point="random", n_points=2)))
    write_prompts(tmp_path / f"p{suffix}", given)
    found = read_prompts(tmp_path / f"p{suffix}").planes
    assert list(found) == [(0, 1), (1, 2)]
    check_same(given, found)


def test_masks_come_back_from_npz_only(neurons, tmp_path):
    chosen = PromptSettings(mask=True, mask_size=32)
    given = dict(sample_planes(neurons, chosen))
    write_prompts(tmp_path / "p.npz", given)
    check_same(
        {p: prompts for p, prompts in given.items() if len(prompts)},
        read_prompts(tmp_path / "p.npz").planes,
    )
    with pytest.raises(InvalidPromptError, match=r"no mask prompts: write an \.npz"):
        write_prompts(tmp_path / "p.csv", given)
    assert not (tmp_path / "p.csv").exists()


def test_the_csv_begins_with_the_columns_of_the_reference(tmp_path):
    labels = np.zeros((10, 12), int)
    labels[2:5, 4:9], labels[7:, 0] = 1, 4
    given = dict(sample_planes(labels, PromptSettings(point="centroid")))
    write_prompts(tmp_path / "p.csv", given)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines == [
        f",{REFERENCE},object,label",
        "0,6,3,4,2,9,5,1,1",
        "1,0,8,0,7,1,10,4,1",
    ]


def test_tables_of_the_reference_are_read(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text(f",{REFERENCE}\n0,6.5,3,4,2,9,5\n2,,,,,,\n5,1,8,nan,nan,nan,nan\n")
    stored = read_prompts(path)
    (prompts,) = stored.planes.values()
    # row k of the index is object k + 1
    assert prompts.object_ids.tolist() == [1, 6]
    assert prompts.has_box.tolist() == [True, False]
    assert prompts.boxes_yx[0].tolist() == [2, 4, 5, 9]
    assert prompts.points_yx[0, 0].tolist() == [3, 6.5]
    assert stored.n_skipped == 1


def test_segment_takes_the_plane_it_is_asked_for(neurons, tmp_path):
    given = dict(sample_planes(neurons, PromptSettings(point="random")))
    for suffix in (".csv", ".json", ".npy", ".parquet"):
        path = tmp_path / f"p{suffix}"
        write_prompts(path, given)
        rows = read_prompt_files(prompts=path, plane=(1,))
        prompts = build_prompts(rows, neurons.shape[1:])
        check_same({(): given[1,]}, {(): prompts})
        with pytest.raises(InvalidPromptError, match="planes 0 and 1: name one"):
            read_prompt_files(prompts=path)
        with pytest.raises(InvalidPromptError, match=r"no prompt in .* on plane 7"):
            read_prompt_files(prompts=path, plane=(7,))


def test_decimal_commas_and_numbers_as_pandas_writes_them(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("x0;y0;object;label;plane_0\n1,5;2;7.0;1.0;3.0\n4;5;7.0;0.0;3.0\n")
    prompts = read_prompts(path).planes[3,]
    assert prompts.object_ids.tolist() == [7]
    assert prompts.points_yx[0].tolist() == [[2, 1.5], [5, 4]]
    assert prompts.point_labels.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("x0,y0,object\n1,2,0", r"row 1: an object is a whole number above 0, not '0'"),
        ("x0,y0,object\n1,2,3.5", r"not '3\.5'"),
        ("x0,y0,label\n1,2,2", r"row 1: a label is 1"),
        ("x0,y0\n1,2\n1,here", r"row 2: y0, x0 must be 2 numbers"),
        ("x0,y0\n1,", r"row 1: a coordinate of the point is not finite"),
        ("x0,y0\n1,inf", r"not finite"),
        ("x0,object\n1,2", r"column y0 is missing"),
        ("x,y\n1,2", r"is no table of prompts: .* and there are x, y"),
        ("x0,y0,plane_0\n1,2,-1", r"row 1: a plane is whole numbers from 0"),
        ("x0,y0,plane_0\n1,2,", r"a plane is whole numbers"),
        ("x0,y0,label\n1,2,0", r"object 1 has only background points"),
        (f"object,{REFERENCE}\n1,1,1,0,0,nan,4", r"a side of the box is not finite"),
        (f"object,{REFERENCE}\n1,1,1,5,5,5,6", r"a box is empty"),
        (
            f"object,{REFERENCE}\n1,1,1,0,0,4,4\n1,2,2,0,0,4,4",
            r"row 2: this object already has a box",
        ),
        ("x0,y0", r"no rows below its header"),
    ],
)
def test_a_wrong_table_names_the_row(tmp_path, rows, message):
    path = tmp_path / "p.csv"
    path.write_text(rows)
    with pytest.raises(InvalidPromptError, match=message) as caught:
        read_prompts(path)
    assert "p.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.npy", b"no numpy", "is not an npy file"),
        ("p.parquet", b"no parquet", "is not a Parquet file"),
        ("p.npz", b"no zip", "holds no prompts"),
        ("p.json", b"{}", "must hold a list"),
        ("p.json", b'[{"box": [1, 1, 2, 2], "plane": 3}]', "whole numbers from 0"),
        ("p.xlsx", b"", r"\.npy, \.npz, \.parquet, not from 'p"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidPromptError, match=message):
        read_prompts(tmp_path / name)


def test_arrays_that_are_no_tables(tmp_path):
    np.save(tmp_path / "p.npy", np.zeros((3, 4)))
    with pytest.raises(InvalidPromptError, match=r"array float64 \(3, 4\), and no tab"):
        read_prompts(tmp_path / "p.npy")
    np.savez(tmp_path / "p.npz", image=np.zeros(3))
    with pytest.raises(InvalidPromptError, match="holds no prompts"):
        read_prompts(tmp_path / "p.npz")
    for suffix in SUFFIXES:
        with pytest.raises(MissingFileError, match=rf"none\{suffix}"):
            read_prompts(tmp_path / f"none{suffix}")


def test_boxes_of_nan_in_every_table_are_counted(tmp_path):
    (tmp_path / "p.json").write_text(
        json.dumps([{"box": [1, 1, 4, 4]}, {"box": [float("nan")] * 4}])
    )
    table = np.zeros(2, [(n, "f4") for n in REFERENCE.split(",")])
    table["bbox_max_x"], table["bbox_max_y"] = 4, 4
    for name in REFERENCE.split(","):
        table[name][1] = np.nan
    np.save(tmp_path / "p.npy", table)
    for suffix in (".json", ".npy"):
        stored = read_prompts(tmp_path / f"p{suffix}")
        assert stored.n_skipped == 1
        assert stored.planes[()].object_ids.tolist() == [1]
    assert len(read_plane_rows(tmp_path / "p.npy")[()]) == 2


def test_without_pyarrow_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "p.parquet").write_bytes(b"")
    with pytest.raises(MissingDependencyError, match=r"napari-samseg\[parquet\]"):
        read_prompts(tmp_path / "p.parquet")
    with (
        pytest.raises(MissingDependencyError, match="pip install"),
        open_prompt_writer(tmp_path / "new.parquet"),
    ):
        pass


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_there_stays_if_writing_ends_with_an_error(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    path.write_bytes(b"before")
    given = dict(sample_planes(np.ones((5, 5), int), PromptSettings()))

    def write_half():
        with open_prompt_writer(path) as writer:
            writer.write((), given[()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InvalidPromptError, match="no prompt to write"):
        write_prompts(path, {})


@pytest.mark.parametrize("entry", [{"points": 5}, {"points": [[1, 2]], "labels": 5}])
def test_points_that_are_no_list(tmp_path, entry):
    (tmp_path / "p.json").write_text(json.dumps([entry]))
    with pytest.raises(InvalidPromptError, match="are a list"):
        read_prompts(tmp_path / "p.json")
