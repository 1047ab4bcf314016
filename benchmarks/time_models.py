"""How fast the embedded model is beside segment_anything's vit_b.

`python benchmarks/time_models.py` prints a table. Times on a busy machine mean
little: the models take turns in one run, each line is the median of its calls, and
what counts is the ratio. The weights of vit_b are random, which costs the same.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from skimage.data import coins
from timing import interleave, random_vit

from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.models import load_model
from napari_samseg.core.models.frame import resize_plane
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.types import PlanePrompts


def one_click(n: int = 1) -> PlanePrompts:
    """Return a click in the middle of the picture, for `n` objects."""
    return PlanePrompts(
        np.arange(1, n + 1),
        np.full((n, 1, 2), 150, np.float32),
        np.ones((n, 1), np.int8),
        np.full((n, 4), np.nan, np.float32),
    )


def encode_as_published(model: SamModel, plane: np.ndarray) -> torch.Tensor:
    """Encode with the modules of segment_anything, not with our way through them."""
    sam = model.sam
    with torch.inference_mode():
        pixels = resize_plane(plane, model.input_size).to(model.device)
        return sam.image_encoder(sam.preprocess(pixels)).cpu()


def main() -> None:
    """Print the medians and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0 is torch's choice")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    models = {
        "embedded": load_model("default", device=options.device, precision="exact"),
        "vit_b": SamModel(
            random_vit(),
            name="vit_b",
            family="sam",
            device=torch.device(options.device),
        ),
    }
    plane = normalise_plane(coins())
    embeddings = {name: model.encode(plane) for name, model in models.items()}
    rows = {
        "encode a plane": {
            "embedded": lambda: models["embedded"].encode(plane),
            "vit_b": lambda: encode_as_published(models["vit_b"], plane),
        },
        "decode one click": {
            name: lambda name=name: predict_masks(
                models[name], embeddings[name], one_click()
            )
            for name in models
        },
        "decode 16 clicks": {
            name: lambda name=name: predict_masks(
                models[name], embeddings[name], one_click(16)
            )
            for name in models
        },
    }
    print("| | embedded (s) | vit_b (s) | vit_b / embedded |\n|---|---:|---:|---:|")
    for title, calls in rows.items():
        seconds = interleave(calls, options.repeats)
        ours, theirs = (statistics.median(seconds[name]) for name in calls)
        print(
            f"| {title} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
