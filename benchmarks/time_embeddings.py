"""What a stack of embeddings costs: time, disk and memory, beside doing without.

`python benchmarks/time_embeddings.py` prints a table; `--json FILE` keeps it. All of it
is measured with the embedded model in one run, in turns with what it is compared with:
on a busy machine the ratios count, not the seconds. Memory is measured in a process of
its own each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from rich.console import Console
from rich.table import Table
from skimage.data import coins
from stored_masks import compare_masks
from timing import interleave

from napari_samseg.core.cache.entry import StackEntry
from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.embed.stack import Stack, stack_recipe
from napari_samseg.core.embed.stack_job import StackJob
from napari_samseg.core.images import open_image
from napari_samseg.core.models import load_model
from napari_samseg.core.models.batching import encode_planes_steps
from napari_samseg.core.models.lanes import Lanes, choose_lanes
from napari_samseg.core.models.protocol import PromptableModel
from napari_samseg.core.planes import measure_plane
from napari_samseg.core.settings import ImageSettings, TileSettings
from napari_samseg.core.steps import run_steps

PARTS = ("memory", "encoding", "storage", "reading")
WHOLE = TileSettings("whole")
# Planes of the two stacks whose memory is compared, small so that reading is nothing.
MEMORY_SIDE = 128


def main() -> None:
    """Measure, print the table, and keep it."""
    options = read_options()
    if options.memory_of:
        print(peak_memory(options.memory_of))
        return
    with tempfile.TemporaryDirectory() as folder:
        # measured speeds belong into no one's cache
        os.environ["SAMSEG_CACHE"] = str(Path(folder) / "cache")
        report = measure(options, Path(folder))
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="only see that it runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--planes", type=int, default=40, help="to encode in a turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of encoding")
    parser.add_argument("--stored", type=int, default=1000, help="planes to open")
    parser.add_argument("--images", type=int, default=8, help="of dsb2018, for masks")
    parser.add_argument(
        "--memory", type=int, nargs=2, default=(64, 512), help="planes of two stacks"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.planes, options.repeats, options.stored = 3, 1, 100
        options.images, options.memory = 0, (2, 6)
    return options


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return all figures, in bytes and seconds."""
    report = {
        "torch": torch.__version__,
        "zarr": zarr.__version__,
        "threads": torch.get_num_threads(),
    }
    # first, while this process leaves room
    if "memory" in options.parts:
        report["memory"] = {str(n): memory_of(n) for n in options.memory}
    model = load_model("default", device="cpu")
    if "encoding" in options.parts:
        report["encoding"] = measure_encoding(options, model, folder)
    if "storage" in options.parts:
        report["storage"] = compare_masks(model, folder / "masks", options.images)
    if "reading" in options.parts:
        report["reading"] = measure_reading(options.stored, model, folder / "stored")
    return report


def make_stack(folder: Path, n: int, side: int) -> Path:
    """Write shifted coins, 16 bits, as a zarr array with a chunk for each plane."""
    picture = np.resize(coins(), (side, side)).astype(np.uint16) * 200
    path = folder / f"{n}.zarr"
    array = zarr.create_array(
        path, shape=(n, side, side), chunks=(1, side, side), dtype="uint16"
    )
    for z in range(n):
        array[z] = np.roll(picture, 5 * z, axis=1)
    return path


def embed_job(path: Path, model: PromptableModel, store: Path) -> StackJob:
    image = open_image(zarr.open_array(path, mode="r"))
    stack = Stack(image, str(path), ImageSettings())
    return StackJob(stack, model, location=str(store), tile_settings=WHOLE)


def measure_encoding(
    options: argparse.Namespace, model: PromptableModel, folder: Path
) -> dict[str, Any]:
    """Time a stack from file to store, and nothing but the encoding of its planes."""
    path = make_stack(folder, options.planes, 512)
    source = open_image(zarr.open_array(path, mode="r"))
    planes = [measure_plane(source, (z,)).read() for z in range(options.planes)]

    def from_file_to_store() -> None:
        report = run_steps(embed_job(path, model, folder / "embedded").embed_steps())
        assert report.encoded == options.planes
        shutil.rmtree(folder / "embedded")

    def encoder_only() -> None:
        for plane in planes:
            run_steps(encode_planes_steps(model, [plane]))

    def encoder_in_lanes() -> None:
        lanes: Lanes[int, object] = Lanes(choose_lanes(model))
        waiting = list(enumerate(planes))
        while waiting or lanes.is_busy:
            while waiting and lanes.is_free:
                number, plane = waiting.pop()
                lanes.start(number, encode_planes_steps(model, [plane], alone=False))
            lanes.advance()
        lanes.end()

    calls = {
        "from file to store": from_file_to_store,
        "encoder, one plane at a time": encoder_only,
        "encoder, planes side by side": encoder_in_lanes,
    }
    return {
        "planes": options.planes,
        "seconds": interleave(calls, options.repeats),
    }


def measure_reading(
    n_planes: int, model: PromptableModel, folder: Path
) -> dict[str, Any]:
    """Time a store of many planes beside zarr reading the same files."""
    entry = fill_store(n_planes, model, folder)
    digest, recipe = entry.recipe.digest, entry.recipe
    array = zarr.open_group(folder, mode="r")[f"{digest}/features"]
    # every turn reads another plane, as a person does
    places = {name: spread(n_planes) for name in ("store", "zarr")}

    def open_store() -> object:
        return EmbeddingStore(folder).open_entry(digest)

    def open_zarr() -> object:
        return zarr.open_group(folder, mode="r")[f"{digest}/features"]

    def read_store() -> None:
        plane = (next(places["store"]),)
        assert entry.get(recipe.key(plane, recipe.tiles[0], "pixels")) is not None

    def read_zarr() -> object:
        return np.asarray(array[next(places["zarr"]), 0])

    return {
        "planes": n_planes,
        "open": interleave({"store": open_store, "zarr": open_zarr}, 40),
        "read": interleave({"store": read_store, "zarr": read_zarr}, 40),
    }


def fill_store(n_planes: int, model: PromptableModel, folder: Path) -> StackEntry:
    """Write one plane, and the rest as further names of its two files."""
    stack = Stack(
        open_image(np.broadcast_to(np.uint8(0), (n_planes, 64, 64))),
        "many.tif",
        ImageSettings(),
    )
    recipe = stack_recipe(stack, model, WHOLE)
    embedding = model.encode(np.repeat(coins()[..., None], 3, axis=2).astype("f4"))
    entry = EmbeddingStore(folder).entry(recipe)
    assert entry is not None
    entry.put_tiles((0,), "pixels", {0: embedding})
    inside = folder / recipe.digest
    for place in range(1, n_planes):
        for name in ("records/{}", "features/c/{}/0/0/0/0"):
            link = inside / name.format(place)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(inside / name.format(0), link)
    return entry


def spread(n_planes: int) -> Iterator[int]:
    """Yield planes far from each other, for ever."""
    place = 0
    while True:
        yield place
        place = (place + 617) % n_planes


def memory_of(n_planes: int) -> int:
    """Return the bytes of a process that encodes so many planes."""
    command = [sys.executable, __file__, "--memory-of", str(n_planes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def peak_memory(n_planes: int) -> int:
    """Encode a stack and return the most memory this process has had, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAMSEG_CACHE"] = folder
        path = make_stack(Path(folder), n_planes, MEMORY_SIDE)
        model = load_model("default", device="cpu")
        run_steps(embed_job(path, model, Path(folder) / "store").embed_steps())
    # macOS counts in bytes, Linux in kibibytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


Row = tuple[str, str, float, str]


def memory_rows(peaks: dict[str, int]) -> Iterator[Row]:
    """Yield what was measured, how much it was, its ratio, and what it should be."""
    (few, less), (many, more) = peaks.items()
    sizes = f"{more / 1e6:.0f} of {less / 1e6:.0f} MB"
    yield f"peak memory of {many} planes, beside {few}", sizes, more / less, "<= 1.1"


def encoding_rows(figures: dict[str, Any]) -> Iterator[Row]:
    n_planes, seconds = figures["planes"], figures["seconds"]
    median = {name: statistics.median(turns) for name, turns in seconds.items()}
    ours = median.pop("from file to store")
    for name, theirs in median.items():
        rates = f"{60 * n_planes / ours:.3g} of {60 * n_planes / theirs:.3g}"
        title = f"planes per minute of {n_planes}, beside the {name}"
        yield title, rates, theirs / ours, ">= 0.9"


def storage_rows(figures: dict[str, Any]) -> Iterator[Row]:
    for name, most in (("float16", "<= 0.5"), ("uint8", "<= 0.25")):
        kept = figures[name]
        share = kept["bytes"] / kept["float32_bytes"]
        size = f"{kept['bytes'] / 1e6:.3f} of {kept['float32_bytes'] / 1e6:.3f} MB"
        yield f"{name}: bytes per plane, beside float32", size, share, most
        iou = kept["iou"]
        lowest = f"{len(iou)} objects, lowest {min(iou):.3f}"
        yield f"{name}: IoU of masks", lowest, statistics.mean(iou), ">= 0.99"


def reading_rows(figures: dict[str, Any]) -> Iterator[Row]:
    for verb, what in (("open", "opening"), ("read", "reading one plane of")):
        median = {name: statistics.median(s) for name, s in figures[verb].items()}
        times = f"{1e3 * median['store']:.2f} of {1e3 * median['zarr']:.2f} ms"
        title = f"{what} {figures['planes']} planes, beside zarr"
        yield title, times, median["store"] / median["zarr"], "<= 2"


ROWS = {
    "memory": memory_rows,
    "encoding": encoding_rows,
    "storage": storage_rows,
    "reading": reading_rows,
}


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title=f"embedded model, {report['threads']} threads")
    for column in ("", "measured", "ratio", "wanted"):
        table.add_column(column, justify="right" if column else "left")
    for part in PARTS:
        figures = report.get(part)
        for title, measured, ratio, wanted in ROWS[part](figures) if figures else ():
            table.add_row(title, measured, f"{ratio:.3f}", wanted)
    Console(width=120).print(table)


if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
