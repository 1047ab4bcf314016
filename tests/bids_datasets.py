"""Small BIDS microscopy datasets for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

PIXEL_SIZE = {"PixelSize": [0.1, 0.1], "PixelSizeUnits": "um"}


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def draw_fibres(shape=(60, 80)):
    """Masks of two axons in their myelin."""
    y, x = np.indices(shape)
    axon, myelin = np.zeros(shape, bool), np.zeros(shape, bool)
    for centre_y, centre_x, inner, outer in ((20, 20, 6, 10), (40, 55, 5, 12)):
        distance = np.hypot(y - centre_y, x - centre_x)
        axon |= distance <= inner
        myelin |= (distance > inner) & (distance <= outer)
    return axon, myelin


class BidsTree:
    """A dataset that grows sample by sample."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.samples: list[tuple[str, str]] = []
        root.mkdir(parents=True)
        (root / "dataset_description.json").write_text(
            json.dumps({"Name": "fibres", "BIDSVersion": "1.10.0", "License": "CC0"})
        )
        self.write_tables()

    def write_tables(self):
        rows = [f"{sample}\t{subject}\ttissue" for subject, sample in self.samples]
        header = "sample_id\tparticipant_id\tsample_type"
        (self.root / "samples.tsv").write_text("\n".join([header, *rows]) + "\n")

    def stem(self, subject, sample):
        return self.root / subject / "micr" / f"{subject}_{sample}_SEM"

    def label(self, subject, sample, what):
        folder = self.root / "derivatives" / "labels" / subject / "micr"
        return folder / f"{subject}_{sample}_SEM_seg-{what}-manual.png"

    def add(self, subject, sample="sample-1", *, shape=(60, 80)):
        """Add an image with its JSON file and its two masks."""
        axon, myelin = draw_fibres(shape)
        self.samples.append((subject, sample))
        self.write_tables()
        stem = self.stem(subject, sample)
        grey = np.where(myelin, 200, np.where(axon, 40, 90)).astype(np.uint8)
        save(stem.with_suffix(".png"), grey)
        stem.with_suffix(".json").write_text(json.dumps(PIXEL_SIZE))
        for what, mask in (("axon", axon), ("myelin", myelin)):
            save(self.label(subject, sample, what), mask.astype(np.uint8) * 255)
        return stem
