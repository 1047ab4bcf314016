"""The configurations of trainings, on a little real data."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from bids_datasets import save
from PIL import Image
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.core.settings import LoopSettings, ModelSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.api import finetune_config
from napari_samseg.core.training.config import read_config

# little crops cut objects down to a few pixels
pytestmark = pytest.mark.filterwarnings("ignore:.*objects are smaller")

FOLDER = Path(__file__).parents[2] / "recipes" / "finetune"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def crops(source: Path, out: Path, names: list[str], side: int = 160) -> None:
    for name in names:
        picture = np.asarray(Image.open(source / name))
        y, x = (n // 3 for n in picture.shape[:2])
        save(out / name, picture[y : y + side, x : x + side])


def make_own(data: Path, shared: Path) -> None:
    names = sorted(p.name for p in (shared / "he_monuseg" / "labels").iterdir())[:2]
    for folder in ("images", "labels"):
        source = shared / "he_monuseg" / folder
        for name in names:
            found = next(p for p in source.iterdir() if p.stem == Path(name).stem)
            crops(source, data / "own" / folder, [found.name])
    shutil.copytree(data / "own", data / "tissue")


def make_myelin(data: Path, shared: Path) -> None:
    """Two subjects, as a dataset with masks; then its derivatives."""
    root = data / "myelin"
    for sub in ("rat1_sample-data1", "rat2_sample-data5"):
        picture = np.asarray(Image.open(shared / f"axon_sem/images/sub-{sub}.png"))
        classes = np.asarray(Image.open(shared / f"axon_sem/classes/sub-{sub}.png"))
        name, folder = f"sub-{sub}_TEM", f"sub-{sub.split('_')[0]}/micr"
        save(root / folder / f"{name}.png", picture[:160, :160])
        for value, what in ((2, "axon"), (1, "myelin")):
            mask = np.uint8(255) * (classes[:160, :160] == value)
            labels = root / "derivatives" / "labels" / folder
            save(labels / f"{name}_seg-{what}-manual.png", mask)
    options = ("--axon", "seg-axon-manual", "--myelin", "seg-myelin-manual")
    done = CliRunner().invoke(app, ["bids", str(root), *options, "--pixel-size", "0.1"])
    assert list(root.glob("derivatives/maps/*/micr/*_myelinmap.png")), done.output


def make_oct(data: Path, shared: Path) -> None:
    source = shared / "oct_dme_fluid"
    (masks,) = (p for p in source.iterdir() if p.is_dir() and p.name != "images")
    names = []
    for path in sorted(masks.iterdir()):
        mask = np.asarray(Image.open(path)) > 0
        if mask.sum() > 2000 and len(names) < 2:
            y, x = (max(0, int(np.median(i)) - 80) for i in np.nonzero(mask))
            window = (slice(y, y + 160), slice(x, x + 160))
            image = np.asarray(Image.open(source / "images" / path.name))
            save(data / "oct" / "images" / path.name, image[window])
            save(data / "oct" / "masks" / path.name, np.uint8(255) * mask[window])
            names.append(path.name)


def make_ms_lesions(data: Path, shared: Path) -> None:
    for name in ("patient07", "patient19"):
        (data / "ms_lesions" / name).mkdir(parents=True)
        for what, ending in (("FLAIR", "FLAIR"), ("lesions", "MASK")):
            path = shared / "mri_ms_lesions" / f"{name}_{what}_MNI.nii.gz"
            volume = nibabel.load(path).slicer[:, :, 98:101]
            nibabel.save(volume, data / "ms_lesions" / name / f"{name}_{ending}.nii.gz")


MAKERS = {
    "quick_own_data": make_own,
    "tissue": make_own,
    "myelin": make_myelin,
    "oct": make_oct,
    "ms_lesions": make_ms_lesions,
}


def test_each_recipe_is_tried() -> None:
    assert sorted(MAKERS) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_short_form_runs_end_to_end(
    shared_data: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))
    MAKERS[name](tmp_path / "data", shared_data)
    shutil.copy(FOLDER / f"{name}.yaml", tmp_path)
    config = read_config(tmp_path / f"{name}.yaml")
    plan = config.plan
    few = {"steps": 2, "validate_every": 1, "accumulate": 1, "warmup_steps": 1}
    kept = {
        field.name: getattr(plan.loop, field.name)
        for field in dataclasses.fields(LoopSettings)
        if field.name not in few
    }
    short = dataclasses.replace(
        plan,
        tune=dataclasses.replace(plan.tune, epochs=0, objects=4),
        loop=LoopSettings(**kept, **few),
        augment=dataclasses.replace(plan.augment, variants=2),
    )
    model = ModelSettings(str(tiny_checkpoint), "cpu")
    config = dataclasses.replace(config, plan=short, model=model)
    result = run_steps(finetune_config(config))
    assert result.split == "groups"
    assert result.best.parent.parent == tmp_path / "models" / "tuned"
    assert len(result.history) == 2
    assert result.after is not None
    assert result.after.n_objects > 0
