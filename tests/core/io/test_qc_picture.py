from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from napari_samseg.core.errors import InvalidImageError, InvalidLabelsError
from napari_samseg.core.io.qc_picture import (
    draw_qc,
    write_qc_page,
    write_qc_picture,
)
from napari_samseg.core.overlay import object_colour


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3)).astype(np.float32)


def test_boxes_outlines_and_ids_are_drawn():
    plane = np.full((400, 500, 3), 90, np.float32)
    labels = np.zeros((400, 500), int)
    labels[100:200, 150:300] = 4
    labels[300, 40] = 900
    picture = draw_qc(plane, labels, max_side=500)
    assert picture.shape == (400, 500, 3)
    for y, x in ((100, 150), (100, 299), (199, 150), (199, 299)):
        assert tuple(picture[y, x]) == object_colour(4)
    assert tuple(picture[300, 40]) == object_colour(900)
    inside = picture[102:198, 152:298]
    assert (inside == 255).all(axis=-1).sum() > 20, "the id in white"
    outside = np.ones((400, 500), bool)
    outside[100:200, 150:300] = outside[300, 40] = False
    assert (picture[outside] == 90).all(), "the id of one pixel cannot be read"


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [((100, 50), 1000, (400, 200)), ((300, 900), 450, (150, 450)), ((1, 1), 9, (4, 4))],
)
def test_pictures_have_a_bounded_side(shape, side, expected):
    picture = draw_qc(noise(shape), np.ones(shape, int), max_side=side)
    assert picture.shape == (*expected, 3)


def test_an_image_that_was_averaged_down_fits():
    labels = np.zeros((600, 900), int)
    labels[300:400, 450:600] = 1
    picture = draw_qc(noise((200, 300)), labels, max_side=300)
    assert tuple(picture[100, 150]) == object_colour(1)


def test_files_are_bounded_too(tmp_path):
    plane, labels = noise((700, 900)), np.zeros((700, 900), int)
    labels[100:300, 200:500] = 1
    for name, write in (("p.png", write_qc_picture), ("p.html", write_qc_page)):
        path = tmp_path / "folder" / name
        write(path, plane, labels, max_bytes=100_000)
        assert 20_000 < path.stat().st_size <= 100_000
    with Image.open(tmp_path / "folder" / "p.png") as picture:
        assert picture.width < 900
        assert picture.width / picture.height == pytest.approx(9 / 7, rel=0.02)


def page_objects(text):
    return json.loads(re.search(r"const objects = (.*);", text)[1])


def test_a_page_lists_objects_by_score(tmp_path):
    plane, labels = noise((120, 160)), np.zeros((120, 160), int)
    labels[10:20, 30:50], labels[40:90, 60:80], labels[100, 100] = 3, 5, 8
    path = tmp_path / "page.html"
    write_qc_page(path, plane, labels, title="a <b> & c", scores={3: 0.91, 5: 0.5})
    text = path.read_text(encoding="utf-8")
    assert page_objects(text) == [
        [5, 40, 60, 90, 80, 1000, 0.5],
        [3, 10, 30, 20, 50, 200, 0.91],
        [8, 100, 100, 101, 101, 1, None],
    ]
    assert "<title>a &lt;b&gt; &amp; c</title>" in text
    assert 'viewBox="0 0 160 120"' in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), "no requests"
    data = re.search(r"data:image/jpeg;base64,([^\"]+)", text)[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (640, 480)
    write_qc_page(path, plane, labels)
    assert [row[0] for row in page_objects(path.read_text())] == [3, 5, 8]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_of_a_page_is_sound(tmp_path):
    write_qc_page(tmp_path / "page.html", noise((9, 9)), np.eye(9, dtype=int))
    text = (tmp_path / "page.html").read_text()
    (tmp_path / "page.js").write_text(
        re.search(r"<script>(.*)</script>", text, re.S)[1]
    )
    subprocess.run(["node", "--check", tmp_path / "page.js"], check=True)


def test_labels_without_objects_are_a_plain_picture(tmp_path):
    plane = noise((40, 60))
    picture = draw_qc(plane, np.zeros((40, 60), int), max_side=60)
    np.testing.assert_array_equal(picture, plane.astype(np.uint8))
    write_qc_page(tmp_path / "page.html", plane, np.zeros((40, 60), int))
    assert page_objects((tmp_path / "page.html").read_text()) == []


def test_what_cannot_be_shown_is_refused(tmp_path):
    plane, labels = noise((40, 60)), np.ones((40, 60), int)
    with pytest.raises(InvalidImageError, match="40 x 60 pixels does not fit"):
        draw_qc(plane, labels.T)
    with pytest.raises(InvalidImageError, match=r"is \(y, x, 3\)"):
        draw_qc(plane[..., 0], labels)
    with pytest.raises(InvalidLabelsError, match="instance labels of a plane"):
        draw_qc(plane, labels > 0)
    with pytest.raises(InvalidImageError, match=r"as \.png"):
        write_qc_picture(tmp_path / "p.jpg", plane, labels)
    with pytest.raises(InvalidImageError, match=r"as \.html"):
        write_qc_page(tmp_path / "p.png", plane, labels)
    assert not list(tmp_path.iterdir())
