"""How fast the embedded model is beside segment_anything's vit_b.

`python benchmarks/time_models.py` prints a table. Times on a busy machine mean
little: the models take turns in one run, each line is the median of its calls, and
what counts is the ratio. The weights of vit_b are random, which costs the same. Clicks
on vit_b are decoded by segment_anything's own predictor, and by ours.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from segment_anything import SamPredictor
from skimage.data import coins
from timing import interleave, random_vit

from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.models import load_model
from napari_samseg.core.models.frame import resize_plane
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.predict import predict_masks
from napari_samseg.core.types import PlaneEmbedding, PlanePrompts


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


def predict_as_published(
    model: SamModel, embedding: PlaneEmbedding, n: int
) -> list[np.ndarray]:
    """Click `n` times by segment_anything's own predictor, on the same embedding."""
    predictor = SamPredictor(model.sam)
    features = torch.from_numpy(np.array(embedding.features["image_embed"]))
    predictor.features = features[None].to(model.device)
    predictor.original_size = embedding.original_size
    predictor.input_size = embedding.input_size
    predictor.is_image_set = True
    point = torch.full((n, 1, 2), 150.0, device=model.device)
    point = predictor.transform.apply_coords_torch(point, embedding.original_size)
    masks, _, _ = predictor.predict_torch(point, point.new_ones((n, 1)))
    return list(masks.cpu().numpy())


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
    }
    for n in (1, 16):
        rows[f"decode {n} click{'s' * (n > 1)}"] = {
            "embedded": lambda n=n: predict_masks(
                models["embedded"], embeddings["embedded"], one_click(n)
            ),
            "vit_b": lambda n=n: predict_as_published(
                models["vit_b"], embeddings["vit_b"], n
            ),
            "vit_b here": lambda n=n: predict_masks(
                models["vit_b"], embeddings["vit_b"], one_click(n)
            ),
        }
    print(
        "| | embedded (s) | vit_b by segment_anything (s) | vit_b here (s) "
        "| segment_anything / embedded |\n|---|---:|---:|---:|---:|"
    )
    for title, calls in rows.items():
        seconds = interleave(calls, options.repeats)
        medians = {name: statistics.median(seconds[name]) for name in calls}
        here = f"{medians['vit_b here']:.3f}" if "vit_b here" in medians else ""
        ours, theirs = medians["embedded"], medians["vit_b"]
        print(
            f"| {title} | {ours:.3f} | {theirs:.3f} | {here} | {theirs / ours:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
