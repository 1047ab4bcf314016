"""Write the averaged weights of a run as the file the wheel carries.

`python recipes/embedded_model/export.py --run runs/tiny`
"""

from __future__ import annotations

import argparse
import dataclasses
from importlib import resources
from pathlib import Path

import torch
from objective import TrainedModel
from safetensors.torch import save_file

from napari_samseg.core.models.tiny import METADATA_KEY, TinyConfig, fold_batch_norm
from napari_samseg.core.models.weights import EMBEDDED_FILE
from napari_samseg.core.training.checkpoint import read_training_state


def export(state: Path, out: Path, config: TinyConfig) -> int:
    """Fold, halve and write the weights; returns the size in bytes.

    `config` is that of the shipped model, without its batch normalisation.
    """
    training = read_training_state(state)
    module = TrainedModel(dataclasses.replace(config, batch_norm=True))
    module.load_state_dict(training["averaged"])
    tensors = {
        name: tensor.to(torch.float16).contiguous()
        for name, tensor in fold_batch_norm(module.sam).state_dict().items()
    }
    metadata = {
        METADATA_KEY: config.to_json(),
        "training_steps": str(training["step"]),
        "licence": "BSD-3-Clause",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".part")
    save_file(tensors, unfinished, metadata)
    unfinished.replace(out)
    return out.stat().st_size


def main() -> None:
    """Export a run."""
    embedded = Path(str(resources.files("napari_samseg"))) / "data" / EMBEDDED_FILE
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=embedded)
    options = parser.parse_args()
    size = export(options.run / "state.pt", options.out, TinyConfig())
    print(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
