"""Pictures to check instances by: boxes and ids over the image, in small files."""

from __future__ import annotations

import html
import io
import json
import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_samseg.core.errors import InvalidImageError, InvalidLabelsError
from napari_samseg.core.instances.components import check_semantic
from napari_samseg.core.instances.membranes import boundaries_of
from napari_samseg.core.io.picture import check_picture_path
from napari_samseg.core.overlay import object_colour
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

__all__ = ["MAX_BYTES", "MAX_SIDE", "draw_qc", "write_qc_page", "write_qc_picture"]

MAX_SIDE = 1600
MAX_BYTES = 2_000_000
# A picture below this is not made smaller to save bytes.
MIN_SIDE = 64
TEXT_SIZES = (9, 22)
# Share of a box, in pixels of the picture, that its id may take: the rest is looked at.
TEXT_SHARE = 0.8
# Lines of boxes with sides below the first fade, down to the second as their opacity:
# a hundred small boxes must not hide what they are around.
FADES_BELOW = 24
FAINTEST = 0.35

Labels = npt.NDArray[Any]


def write_qc_picture(
    path: Path,
    plane: npt.NDArray[Any],
    labels: Labels,
    *,
    max_side: int = MAX_SIDE,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Write a picture of instances as PNG of 256 colours.

    Parameters
    ----------
    path : Path
        Ends in ``.png``; its folder is made if need be.
    plane, labels, max_side
        See `draw_qc`.
    max_bytes : int
        The picture is made smaller until the file is no larger than this.

    Raises
    ------
    InvalidImageError
        If `path` has another suffix, or the image another form than the labels.
    """
    from PIL import Image

    check_picture_path(path)
    index = _index(plane, labels)

    def encode(side: int) -> bytes:
        # few colours beside the greys of the image: a third of the size
        picture = _draw(plane, index, side).quantize(256, dither=Image.Dither.NONE)
        return _encode(picture, "PNG")

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_within(encode, max_side, max_bytes))


def write_qc_page(
    path: Path,
    plane: npt.NDArray[Any],
    labels: Labels,
    *,
    title: str = "",
    scores: Mapping[int, float] | None = None,
    max_side: int = MAX_SIDE,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Write a web page on which objects are looked up: one file, for any browser.

    The image is in it, each object is shown by its box, and named where the pointer
    is; a list of all objects goes with it. Nothing is loaded from elsewhere.

    Parameters
    ----------
    path : Path
        ``.html``; its folder is made if need be.
    plane, labels, max_side
        See `draw_qc`.
    title : str
        Name of the image.
    scores : mapping of id to float, optional
        A score of each object, such as its predicted IoU; the list is sorted by it,
        the lowest first.
    max_bytes : int
        The image in the page is made smaller until the file is no larger than this;
        no object is left out, so that some 50,000 may need more.

    Raises
    ------
    InvalidImageError
        If `path` has another suffix, or the image another form than the labels.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidImageError(f"a page is written as .html, not as {path.name!r}")
    index = _index(plane, labels)
    objects = _describe_objects(index, scores or {})
    height, width = index.labels.shape

    def encode(side: int) -> bytes:
        picture = _resized(plane, _picture_size(index, side))
        data = b64encode(_encode(picture, "JPEG", quality=85)).decode("ascii")
        page = PAGE
        for name, text in (
            ("TITLE", html.escape(title or path.stem)),
            ("WIDTH", str(width)),
            ("HEIGHT", str(height)),
            ("OBJECTS", objects),
            ("PICTURE", data),
        ):
            page = page.replace(f"@{name}@", text)
        return page.encode()

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_within(encode, max_side, max_bytes))


def draw_qc(
    plane: npt.NDArray[Any], labels: Labels, *, max_side: int = MAX_SIDE
) -> npt.NDArray[np.uint8]:
    """Draw the box, the outline and the id of each object over the image.

    Ids of objects that are too small to be read are left out.

    Parameters
    ----------
    plane : (y, x, 3) float or uint8
        The image in 0..255, of the size of the labels or averaged down.
    labels : (Y, X) integer
        Instance labels, 0 is background.
    max_side : int
        Longest side of the picture in pixels.

    Returns
    -------
    (h, w, 3) uint8
        Enlarged by a whole number where the labels are small.

    Raises
    ------
    InvalidImageError
        If the image has another form than the labels.
    """
    return np.asarray(_draw(plane, _index(plane, labels), max_side))


def _index(plane: npt.NDArray[Any], labels: Labels) -> ObjectIndex:
    labels = check_semantic(labels)
    if labels.ndim != 2 or labels.dtype == bool:
        raise InvalidLabelsError(
            f"a picture shows instance labels of a plane, not {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if plane.ndim != 3 or plane.shape[2] != 3:
        raise InvalidImageError(f"a picture is (y, x, 3), not {plane.shape}")
    (h, w), (height, width) = plane.shape[:2], labels.shape
    # averaged down, the sides may be off by the rounding of one pixel
    if abs(h * width - w * height) > max(width, height):
        raise InvalidImageError(
            f"an image of {h} x {w} pixels does not fit labels of {height} x {width}"
        )
    return index_objects(labels)


def _within(encode: Callable[[int], bytes], side: int, max_bytes: int) -> bytes:
    while True:
        data = encode(side)
        if len(data) <= max_bytes or side <= MIN_SIDE:
            return data
        shrink = math.sqrt(max_bytes / len(data))
        side = max(MIN_SIDE, int(side * min(0.9, max(0.5, shrink))))


def _encode(picture: Picture, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, optimize=True, **options)
    return file.getvalue()


def _picture_size(index: ObjectIndex, side: int) -> tuple[int, int]:
    """(Y, X) of a picture whose longer side is at most `side`."""
    height, width = index.labels.shape
    scale = side / max(height, width)
    if scale > 1:
        # whole pixels stay squares
        scale = max(1, min(4, int(scale)))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(plane: npt.NDArray[Any], size: tuple[int, int]) -> Picture:
    from PIL import Image

    picture = Image.fromarray(np.clip(np.rint(plane), 0, 255).astype(np.uint8))
    return picture.resize(size[::-1], Image.Resampling.LANCZOS)


def _draw(plane: npt.NDArray[Any], index: ObjectIndex, side: int) -> Picture:
    from PIL import Image, ImageDraw

    size = _picture_size(index, side)
    pixels = np.array(_resized(plane, size))
    colours = np.array(
        [object_colour(i) for i in index.object_ids.tolist()], np.uint8
    ).reshape(-1, 3)
    _paint_outlines(pixels, index, colours)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture, "RGBA")
    scale = size[1] / index.labels.shape[1]
    boxes = (index.boxes_yx * scale).tolist()
    # half a pixel of the image, where that is enlarged
    width = max(1, round(scale / 2))
    for box, colour in zip(boxes, colours.tolist(), strict=True):
        _draw_box(draw, box, tuple(colour), width)
    # over the boxes of all others
    for object_id, box in zip(index.object_ids.tolist(), boxes, strict=True):
        _write_id(draw, str(object_id), box)
    return picture


def _paint_outlines(
    pixels: npt.NDArray[np.uint8], index: ObjectIndex, colours: npt.NDArray[np.uint8]
) -> None:
    """Mix the colour of each object into its border, in the pixels of the picture."""
    rows, columns = (
        (np.arange(n) + 0.5) * whole // n
        for n, whole in zip(pixels.shape, index.labels.shape, strict=False)
    )
    labels = index.labels[rows.astype(int)[:, np.newaxis], columns.astype(int)]
    border = boundaries_of(labels, "inner")
    colour = colours[np.searchsorted(index.object_ids, labels[border])]
    pixels[border] = (pixels[border].astype(int) + colour) // 2


def _draw_box(
    draw: ImageDraw, box: list[float], colour: tuple[int, ...], width: int
) -> None:
    y0, x0, y1, x1 = box
    left, top = int(x0), int(y0)
    right, bottom = max(left, round(x1) - 1), max(top, round(y1) - 1)
    side = min(right - left, bottom - top) + 1
    if side <= 2:  # a dot, or a line: there is nothing in it to be hidden
        draw.rectangle((left, top, right, bottom), fill=colour)
        return
    opacity = min(1.0, max(FAINTEST, side / FADES_BELOW))
    fill = (*colour, round(255 * opacity))
    for inset in range(min(width, side // 2)):
        corners = (left + inset, top + inset, right - inset, bottom - inset)
        draw.rectangle(corners, outline=fill)


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _write_id(draw: ImageDraw, text: str, box: list[float]) -> None:
    y0, x0, y1, x1 = box
    smallest, largest = TEXT_SIZES
    size = max(smallest, min(largest, int((y1 - y0) / 3)))
    fitting = [
        font
        for font in (_font(size), _font(smallest))
        if font.getlength(text) <= TEXT_SHARE * (x1 - x0)
        and font.size <= TEXT_SHARE * (y1 - y0)
    ]
    if not fitting:
        return
    draw.text(
        ((x0 + x1) / 2, (y0 + y1) / 2),
        text,
        font=fitting[0],
        anchor="mm",
        fill=(255, 255, 255),
        stroke_width=1,
        stroke_fill=(0, 0, 0),
    )


def _describe_objects(index: ObjectIndex, scores: Mapping[int, float]) -> str:
    """Return ``[[id, y0, x0, y1, x1, area, score or null], ...]`` as JSON."""
    rows = []
    for object_id, box, area in zip(
        index.object_ids.tolist(),
        index.boxes_yx.tolist(),
        index.areas.tolist(),
        strict=True,
    ):
        score = float(scores.get(object_id, math.nan))
        shown = round(score, 4) if math.isfinite(score) else None
        rows.append([object_id, *box, area, shown])
    if scores:
        rows.sort(key=lambda row: (row[6] is None, row[6], row[0]))
    return json.dumps(rows, separators=(",", ":"))


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>@TITLE@</title>
<style>
body { margin: 0; display: flex; height: 100vh; font: 14px sans-serif }
main { flex: 1; overflow: auto; background: #222 }
aside { width: 17em; overflow: auto; padding: 0 1em }
svg { display: block; width: 100% }
rect { fill: transparent; stroke-width: 1.5; vector-effect: non-scaling-stroke }
rect:hover, rect.on { fill: #fff5; stroke: #fff; stroke-width: 3 }
table { border-collapse: collapse; width: 100%; text-align: right }
tr { cursor: pointer }
tr:hover, tr.on { background: #8cf }
</style>
<main><svg viewBox="0 0 @WIDTH@ @HEIGHT@">
<image width="@WIDTH@" height="@HEIGHT@" preserveAspectRatio="none"
 href="data:image/jpeg;base64,@PICTURE@"/>
</svg></main>
<aside><h3>@TITLE@</h3><p id="count"></p>
<table><thead><tr><th>object<th>pixels<th id="score">score</thead>
<tbody></tbody></table></aside>
<script>
const objects = @OBJECTS@;
const svg = document.querySelector("svg");
const rows = document.querySelector("tbody");
const hasScores = objects.some(o => o[6] !== null);
document.getElementById("count").textContent = objects.length + " objects";
if (!hasScores) document.getElementById("score").remove();
let chosen = [], boxes = [];
function choose(pair, other) {
  chosen.forEach(e => e.classList.remove("on"));
  chosen = pair;
  chosen.forEach(e => e.classList.add("on"));
  other.scrollIntoView({ block: "center", inline: "center" });
}
for (const [id, y0, x0, y1, x1, area, score] of objects) {
  const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const place = { x: x0, y: y0, width: x1 - x0, height: y1 - y0,
                  stroke: `hsl(${(id * 222.49224) % 360} 90% 60%)` };
  for (const name in place) box.setAttribute(name, place[name]);
  const text = document.createElementNS("http://www.w3.org/2000/svg", "title");
  text.textContent = `object ${id}, ${area} px`
    + (score === null ? "" : `, score ${score}`);
  box.append(text);
  const row = rows.insertRow();
  for (const cell of [id, area, ...(hasScores ? [score ?? ""] : [])])
    row.insertCell().textContent = cell;
  box.onclick = () => choose([box, row], row);
  row.onclick = () => choose([box, row], box);
  boxes.push([area, box]);
}
// small ones last, where the pointer reaches them
for (const [, box] of boxes.sort((a, b) => b[0] - a[0])) svg.append(box);
</script>
</html>
"""
