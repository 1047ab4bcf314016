"""How fast the ViT encoder is beside segment_anything's own, and in how much memory.

`python benchmarks/time_encoder.py` prints a table; `--json FILE` keeps it. Both encode
the same pixels with the same seeded random weights. They take turns in one run with a
large matrix product, which shows what the device can do at that hour: on a busy machine
the ratios count, not the seconds. Memory is measured in a process of its own each: the
peak while encoding less what was held before.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from segment_anything.modeling import ImageEncoderViT
from timing import interleave, nothing, random_vit

from napari_samseg.core.models.attention import fast_stages
from napari_samseg.core.models.device import (
    choose_device,
    choose_dtype,
    device_name,
    full_products,
)

THEIRS, OURS, PRODUCT = "segment_anything", "napari-samseg", "matrix product"
# Rows of the square matrices: as large as the encoder's products, and a second or so.
PRODUCT_SIDE = {"cpu": 3072, "cuda": 8192}


def main() -> None:
    """Measure, print the table, and keep it."""
    options = read_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(peak_memory(options)))
        return
    report = measure(options)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_b", help="vit_b, vit_l or vit_h")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fast", help="of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1, help="planes at once")
    parser.add_argument("--threads", type=int, default=0, help="0 is torch's choice")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--memory-of", choices=(THEIRS, OURS), help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> tuple[ImageEncoderViT, torch.Tensor]:
    """Return the encoder and pixels for it, on the device."""
    device = choose_device(options.device)
    encoder = random_vit(options.model).image_encoder.to(device)
    side = encoder.img_size
    pixels = torch.randn(options.batch, 3, side, side, device=device)
    return encoder, pixels


def encoders(
    options: argparse.Namespace, encoder: ImageEncoderViT, pixels: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return the two ways of encoding, by name."""
    dtype = choose_dtype(options.precision, pixels.device)

    def theirs() -> torch.Tensor:
        with torch.inference_mode():
            return encoder(pixels)

    def ours() -> torch.Tensor:
        tokens = pixels
        with torch.inference_mode(), full_products(dtype):
            for stage in fast_stages(encoder, dtype):
                tokens = stage(tokens)
        return tokens

    return {THEIRS: theirs, OURS: ours}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures, in bytes, seconds and floating point operations."""
    # first, while this process is small: the machine must hold both
    peaks = {name: memory_of(name) for name in (THEIRS, OURS)}
    encoder, pixels = prepare(options)
    device, dtype = pixels.device, choose_dtype(options.precision, pixels.device)
    calls = encoders(options, encoder, pixels)
    side = PRODUCT_SIDE["cuda" if device.type == "cuda" else "cpu"]
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    calls[PRODUCT] = lambda: matrix @ matrix
    wait = torch.cuda.synchronize if device.type == "cuda" else nothing
    seconds = interleave(calls, options.repeats, wait)
    expected, features = calls[THEIRS](), calls[OURS]()
    return {
        "model": options.model,
        "device": device_name(device),
        "torch": torch.__version__,
        "precision": str(dtype).removeprefix("torch."),
        "batch": options.batch,
        "seconds": seconds,
        "peak_bytes": peaks,
        "max_difference": float((features - expected).abs().max()),
        "min_cosine": float(torch.cosine_similarity(features, expected, dim=1).min()),
        "encoder_flop": encoder_flop(encoder) * options.batch,
        "product_flop": 2 * side**3,
    }


def encoder_flop(encoder: ImageEncoderViT) -> int:
    """Count the operations an encoding cannot do without, a product as two.

    Linear layers see tokens, no padding; windows attend to their padding, as trained.
    """
    width = encoder.pos_embed.shape[-1]
    grid = encoder.img_size // encoder.patch_embed.proj.kernel_size[0]
    tokens = grid**2
    total = tokens * encoder.patch_embed.proj.weight.numel()
    for block in encoder.blocks:
        attention, mlp = block.attn, block.mlp
        layers = (attention.qkv, attention.proj, mlp.lin1, mlp.lin2)
        total += tokens * sum(layer.weight.numel() for layer in layers)
        side = block.window_size or grid
        windows = (-(-grid // side)) ** 2
        # queries by keys, by values, by rows and by columns
        total += windows * side**2 * width * 2 * (side**2 + side)
    convolutions = [m for m in encoder.neck if isinstance(m, torch.nn.Conv2d)]
    total += tokens * sum(layer.weight.numel() for layer in convolutions)
    return 2 * total


def memory_of(name: str) -> int:
    """Return the bytes that encoding takes, measured in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def peak_memory(options: argparse.Namespace) -> int:
    """Encode once and return the most memory that took, in bytes."""
    encoder, pixels = prepare(options)
    encode = encoders(options, encoder, pixels)[options.memory_of]
    if pixels.device.type == "cuda":
        held = torch.cuda.memory_allocated(pixels.device)
        torch.cuda.reset_peak_memory_stats(pixels.device)
        encode()
        return torch.cuda.max_memory_allocated(pixels.device) - held
    held = psutil.Process().memory_info().rss
    encode()
    # macOS counts in bytes, Linux in kibibytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - held


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    console = Console()
    median = {name: statistics.median(s) for name, s in report["seconds"].items()}
    peak = report["peak_bytes"]
    table = Table(
        title=f"{report['model']}, {report['batch']} planes of 1024 x 1024, "
        f"{report['precision']}, {report['device']}"
    )
    for column in ("", THEIRS, OURS, "ratio"):
        table.add_column(column, justify="right" if column else "left")
    rate = {name: report["encoder_flop"] / median[name] for name in (THEIRS, OURS)}
    limit = report["product_flop"] / median[PRODUCT]
    for title, values, form, scale in (
        ("time (s)", median, ".3f", 1),
        ("peak memory (MB)", peak, ".0f", 1e-6),
        ("GFLOP/s", rate, ".0f", 1e-9),
        ("of a matrix product (%)", rate, ".0f", 100 / limit),
    ):
        theirs, ours = values[THEIRS], values[OURS]
        cells = [format(value * scale, form) for value in (theirs, ours)]
        high, low = max(theirs, ours), min(theirs, ours)
        table.add_row(title, *cells, f"{high / low:.2f}")
    console.print(table)
    console.print(
        f"matrix product: {limit / 1e9:.0f} GFLOP/s; encoder: "
        f"{report['encoder_flop'] / 1e9:.0f} GFLOP; largest difference "
        f"{report['max_difference']:.1e}, lowest cosine {report['min_cosine']:.6f}"
    )


if __name__ == "__main__":
    main()
