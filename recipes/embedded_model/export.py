"""Write weights as the file the wheel carries, and put the best of a run there.

`python recipes/embedded_model/export.py --run runs/tiny`
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from segment_anything.modeling import Sam

from napari_samseg.core.models import load_model
from napari_samseg.core.models.tiny import (
    fold_batch_norm,
    tiny_metadata,
)
from napari_samseg.core.models.weights import embedded_path
from napari_samseg.core.training.result import write_tensors


def write_weights(sam: Sam, out: Path, steps: int) -> int:
    """Fold, halve and write the weights; returns the size in bytes."""
    folded = fold_batch_norm(sam)
    tensors = {
        name: tensor.to("cpu", torch.float16).contiguous()
        for name, tensor in folded.state_dict().items()
    }
    metadata = {
        **tiny_metadata(folded),
        "training_steps": str(steps),
        "licence": "BSD-3-Clause",
    }
    write_tensors(out, tensors, metadata)
    return out.stat().st_size


def main() -> None:
    """Put the best weights of a run into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=embedded_path())
    options = parser.parse_args()
    best = options.run / "best.safetensors"
    model = load_model(best, device="cpu")  # it must be readable
    shutil.copyfile(best, options.out)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {model.name}, {size:.1f} MB")


if __name__ == "__main__":
    main()
