from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from napari_samseg.core.errors import InvalidPromptError, MissingFileError
from napari_samseg.core.io.prompt_table import build_prompts, read_prompt_files


@pytest.fixture
def write(tmp_path):
    def write(text, name="prompts.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_each_row_of_points_is_an_object(write):
    rows = read_prompt_files(points=write("y,x\n1,2\n3.5,4\n"))
    prompts = build_prompts(rows, (10, 10))
    assert prompts.object_ids.tolist() == [1, 2]
    np.testing.assert_array_equal(prompts.points_yx, [[[1, 2]], [[3.5, 4]]])
    assert prompts.point_labels.tolist() == [[1], [1]]
    assert not prompts.has_box.any()


def test_rows_with_one_object_id_are_one_object(write):
    points = write("object,y,x,label\n7,1,2,1\n7,3,4,0\n2,5,6,\n")
    boxes = write("object,y0,x0,y1,x1\n7,0,1,5,6\n9,2,2,4,4\n", "boxes.csv")
    prompts = build_prompts(read_prompt_files(points=points, boxes=boxes), (10, 10))
    assert prompts.object_ids.tolist() == [7, 2, 9]
    assert prompts.point_labels.tolist() == [[1, 0], [1, -1], [-1, -1]]
    np.testing.assert_array_equal(prompts.boxes_yx[0], [0, 1, 5, 6])
    assert prompts.has_box.tolist() == [True, False, True]


def test_points_and_boxes_without_ids_pair_by_row(write):
    points = write("y,x\n1,2\n3,4\n")
    boxes = write("y0,x0,y1,x1\n0,0,5,5\n2,2,6,6\n", "boxes.csv")
    prompts = build_prompts(read_prompt_files(points=points, boxes=boxes), (10, 10))
    assert prompts.object_ids.tolist() == [1, 2]
    assert prompts.has_box.all()


def test_points_saved_by_napari_are_read(tmp_path):
    from napari.layers import Points
    from napari_builtins.io import napari_write_points

    layer = Points([[3, 1.5, 2], [3, 4, 5]], ndim=3)
    path = napari_write_points(
        str(tmp_path / "points.csv"), *layer.as_layer_data_tuple()[:2]
    )
    prompts = build_prompts(read_prompt_files(points=Path(path)), (10, 10))
    np.testing.assert_array_equal(prompts.points_yx, [[[1.5, 2]], [[4, 5]]])


def test_points_of_other_planes_are_left_out(write):
    table = write("index,axis-0,axis-1,axis-2\n0,0,40,41\n1,7,90,91\n2,6.5,92,93\n")
    rows = read_prompt_files(points=table, plane=(7,))
    assert [row.points_yx for row in rows.values()] == [[(90, 91)], [(92, 93)]]
    assert list(rows) == [2, 3]
    with pytest.raises(InvalidPromptError, match="lie on planes 0 and 7: name one"):
        read_prompt_files(points=table)
    with pytest.raises(InvalidPromptError, match="plane 5; there are some on 0 and"):
        read_prompt_files(points=table, plane=(5,))
    flat = write("y,x\n1,2\n", "flat.csv")
    assert read_prompt_files(points=flat, plane=(7,))[1].points_yx == [(1, 2)]


def test_axes_are_in_the_order_of_their_numbers(write):
    names = ",".join(f"axis-{i}" for i in (10, *range(10)))
    table = write(f"{names}\n44,{','.join('0' * 9)},33\n")
    (row,) = read_prompt_files(points=table).values()
    assert row.points_yx == [(33, 44)]


def test_json_says_all_of_an_object_in_one_entry(write):
    entries = [
        {"object": 4, "points": [[1, 2], [3, 4]], "labels": [1, 0]},
        {"object": 5, "box": [0, 0, 4, 6]},
    ]
    rows = read_prompt_files(prompts=write(json.dumps(entries), "prompts.json"))
    prompts = build_prompts(rows, (10, 10))
    assert prompts.object_ids.tolist() == [4, 5]
    assert prompts.point_labels.tolist() == [[1, 0], [-1, -1]]
    np.testing.assert_array_equal(prompts.boxes_yx[1], [0, 0, 4, 6])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y,z\n1,2\n", r"row 1: column x is missing; there are y, z"),
        ("y,x\n1,2\n1,here\n", r"row 2: y, x must be 2 numbers"),
        ("y,x\n1\n", r"column x is missing"),
        (",x,z\n0,1,2\n", r"column y is missing; there are x, z$"),
        (",x0,y0,bbox_min_x\n0,1,2,3\n", r"give it with --prompts"),
        ("y,x,label\n1,2,3\n", r"a label is 1 .* not '3'"),
        ("y,x,object\n1,2,0\n", r"whole number above 0, not '0'"),
        ("y,x,object\n1,2,one\n", r"whole number above 0"),
        ("y,x\n", r"no rows below its header"),
    ],
)
def test_a_wrong_csv_of_points_names_the_row(write, text, message):
    with pytest.raises(InvalidPromptError, match=message):
        read_prompt_files(points=write(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "must hold a list"),
        ("[]", "no prompt in it"),
        ('[{"object": 1}]', "entry 1 has neither points nor a box"),
        ('[{"points": [[1, 2]], "labels": [1, 0]}]', "1 point with 2 labels"),
        ('[{"box": [1, 2, 3]}]', "y0, x0, y1, x1 must be 4 numbers"),
        ('[{"box": [1,1,2,2]}, {"object": 1, "box": [1,1,2,2]}]', "already has a box"),
    ],
)
def test_a_wrong_json_says_what_is_wrong(write, text, message):
    with pytest.raises(InvalidPromptError, match=message):
        read_prompt_files(prompts=write(text, "prompts.json"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.csv"):
        read_prompt_files(points=tmp_path / "nowhere.csv")


def test_a_binary_file_is_no_table(tmp_path):
    path = tmp_path / "points.csv"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InvalidPromptError, match="not a text file"):
        read_prompt_files(points=path)


def test_a_prompt_outside_the_plane_is_named(write):
    rows = read_prompt_files(points=write("y,x\n1,2\n30,4\n"))
    with pytest.raises(InvalidPromptError, match="outside the plane"):
        build_prompts(rows, (10, 10))


def test_semicolons_part_columns_where_the_comma_is_a_decimal_sign(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("y;x;object\n1,5;2;7\n", encoding="utf-8")
    rows = read_prompt_files(points=path)
    assert rows[7].points_yx == [(1.5, 2.0)]
