from __future__ import annotations

import csv
import dataclasses
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny_coins import tiny_model

from napari_samseg.core.cache.zarr_store import EmbeddingStore
from napari_samseg.core.embed.api import embed
from napari_samseg.core.errors import (
    CheckpointError,
    InvalidLabelsError,
    MissingDependencyError,
    MissingFileError,
    OutputError,
    SettingsError,
    TrainingError,
)
from napari_samseg.core.images import open_image
from napari_samseg.core.models import load_model
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import (
    AugmentSettings,
    LoopSettings,
    LoraSettings,
    ModelSettings,
    TileSettings,
    TuneSettings,
)
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.lora import load_lora, merge_lora
from napari_samseg.core.training.presets import TuningPlan
from napari_samseg.core.training.result import TuneResult, mean_iou
from napari_samseg.core.training.tuning import TuningJob
from napari_samseg.core.training.unfinished import read_recipe, unfinished_trainings
from napari_samseg.core.training.views import ViewSet
from napari_samseg.core.types import TrainingProgress


def plan(*, variants: int = 1, **loop: float) -> TuningPlan:
    values = {
        "steps": 12,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "validate_every": 4,
        "checkpoint_every": 4,
        "ema_decay": 0.5,
    }
    return TuningPlan(
        tune=TuneSettings(objects=4),
        loop=LoopSettings(**{**values, **loop}),  # type: ignore[arg-type]
        augment=AugmentSettings(variants=variants),
    )


def labelled(image: tuple[np.ndarray, np.ndarray], name: str = "a") -> LabelledImage:
    picture, labels = image
    return LabelledImage(name, open_image(picture), labels)


def tune(
    images: list[LabelledImage],
    model: SamModel,
    folder: Path,
    wanted: TuningPlan,
    **how: bool,
) -> TuneResult:
    return run_steps(TuningJob(images, model, folder, wanted).run_steps(**how))


def test_a_tuned_model_is_better_and_whole(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    encoder = {k: v.clone() for k, v in model.sam.state_dict().items()}
    out = tmp_path / "coins"
    result = tune([labelled(coin_labels)], model, out, plan(steps=120, variants=4))
    assert result.split == "objects"
    assert result.before is not None
    assert result.after is not None
    assert result.after.score > result.before.score + 0.2
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    assert len(result.history) == 30
    assert result.history[-1]["step"] == 120
    # the model in use stays as it was
    for name, value in model.sam.state_dict().items():
        assert torch.equal(value, encoder[name])
    tuned = load_model(result.best, device="cpu", precision="exact")
    assert tuned.encoder_digest == model.encoder_digest
    assert tuned.input_size == 128
    changed = {
        name.split(".")[0]
        for name, value in tuned.sam.state_dict().items()
        if not torch.equal(value, encoder[name])
    }
    assert changed == {"mask_decoder"}
    card = json.loads(result.best.with_suffix(".json").read_text())
    assert card["base"]["name"] == "test"
    assert card["scores"]["after"]["box"] == pytest.approx(result.after.box)
    assert not (out / "work").exists()
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"loss", "rate", "box", "point", "val_box", "val_point"} <= {
        row["name"] for row in rows
    }


def test_a_stopped_training_is_resumed_as_if_nothing_had_been(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    whole = tune([labelled(coin_labels)], model, tmp_path / "whole", plan(variants=2))
    out = tmp_path / "halted"
    job = TuningJob([labelled(coin_labels)], model, out, plan(variants=2))
    steps = job.run_steps()
    for step in steps:
        if isinstance(step, TrainingProgress) and step.done == 6:
            break
    steps.close()
    assert job.can_resume
    stopped = load_model(out / "last.safetensors", device="cpu")
    assert stopped.encoder_digest == model.encoder_digest
    with pytest.raises(OutputError, match="not over"):
        tune([labelled(coin_labels)], model, out, plan(variants=2))
    # the labels may have changed by now, or be gone
    resumed = run_steps(
        TuningJob([], model, out, plan(variants=2)).run_steps(resume=True)
    )
    for one, other in ((whole.best, resumed.best), (whole.last, resumed.last)):
        expected = load_model(one, device="cpu").sam.state_dict()
        for name, value in load_model(other, device="cpu").sam.state_dict().items():
            assert torch.equal(value, expected[name]), name
    assert not job.can_resume


def test_a_training_does_not_go_on_from_other_weights(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    out = tmp_path / "halted"
    job = TuningJob([labelled(coin_labels)], model, out, plan())
    for step in (steps := job.run_steps()):
        if isinstance(step, TrainingProgress) and step.done == 2:
            break
    steps.close()
    state = (out / "work/state.pt").read_bytes()
    other = tiny_model()
    with torch.no_grad():
        next(other.sam.image_encoder.parameters()).add_(1)
    with pytest.raises(SettingsError, match=r"other weights than 'test' has now"):
        run_steps(TuningJob([], other, out, plan()).run_steps(resume=True))
    assert (out / "work/state.pt").read_bytes() == state
    (out / "work/base.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"base\.json does not say"):
        run_steps(TuningJob([], model, out, plan()).run_steps(resume=True))
    assert job.can_resume


def test_a_model_is_not_replaced_unasked(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    image, out = labelled(coin_labels), tmp_path / "coins"
    tune([image], model, out, plan(steps=2))
    mode = (out / "log.csv").stat().st_mode
    assert (out / "best.safetensors").stat().st_mode == mode
    kept = {path: path.read_bytes() for path in out.glob("*.*")}
    with pytest.raises(OutputError, match=r"already.*best.*--out.*--overwrite"):
        tune([image], model, out, plan(steps=3))
    with pytest.raises(MissingFileError, match=r"no training to resume.*is over"):
        tune([image], model, out, plan(steps=3), resume=True)
    with pytest.raises(SettingsError, match="choose one"):
        tune([image], model, out, plan(steps=3), resume=True, overwrite=True)
    assert {path: path.read_bytes() for path in out.glob("*.*")} == kept
    tune([image], model, out, plan(steps=3), overwrite=True)
    assert json.loads((out / "last.json").read_text())["step"] == 3


def test_what_gets_worse_leaves_the_model_as_it_was(
    coin_labels, tmp_path: Path
) -> None:
    # a model that knows coins, and steps so large that it learns nothing but noise
    model = load_model("default", device="cpu")
    wanted = plan(steps=4, learning_rate=1.0, ema_decay=0.0)
    result = tune([labelled(coin_labels)], model, tmp_path, wanted)
    assert result.step == 0
    assert result.after == result.before
    assert result.before is not None
    assert mean_iou(result.learned) <= result.before.score
    expected = model.sam.state_dict()
    for name, value in load_model(result.best, device="cpu").sam.state_dict().items():
        assert torch.equal(value, expected[name]), name
    card = json.loads((tmp_path / "best.json").read_text())
    assert card["step"] == 0
    assert card["scores"]["after"] == card["scores"]["before"]
    assert card["objects"]["training"] + card["objects"]["validation"] == 6


def test_a_training_stopped_while_encoding_is_resumed(
    coin_labels, tmp_path: Path
) -> None:
    chosen, out = ModelSettings(device="cpu"), tmp_path / "out"
    image, wanted = labelled(coin_labels), plan(steps=2, variants=2)
    steps = TuningJob([image], chosen, out, wanted).run_steps()
    for step in steps:
        if step.stage.startswith("encoding"):
            break
    steps.close()
    result = run_steps(TuningJob([image], chosen, out, wanted).run_steps(resume=True))
    assert result.history[-1]["step"] == 2


def test_other_settings_than_at_the_start(coin_labels, tmp_path: Path) -> None:
    def resume(**changed: float) -> list[str]:
        tune_settings = {k: changed.pop(k) for k in ("min_area",) if k in changed}
        other = plan(**{"steps": 3, **changed})  # type: ignore[arg-type]
        other = dataclasses.replace(
            other, tune=dataclasses.replace(other.tune, **tune_settings)
        )
        job = TuningJob([], chosen, tmp_path, other)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run_steps(job.run_steps(resume=True))
        return [str(warning.message) for warning in told]

    chosen = ModelSettings(device="cpu")
    steps = TuningJob([labelled(coin_labels)], chosen, tmp_path, plan(steps=3))
    begun = steps.run_steps()
    for step in begun:
        if isinstance(step, TrainingProgress):
            break
    begun.close()
    with pytest.raises(SettingsError, match=r"tune\.min_area was 30, now 40"):
        resume(min_area=40)
    (told,) = resume(learning_rate=1e-4)
    assert "loop.learning_rate was 0.005, now 0.0001" in told


def test_embeddings_of_a_store_are_used(
    coin_labels, model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, labels = coin_labels
    store = tmp_path / "store"
    embed(picture, model=model, out=store, precision="exact")
    encoded = []
    plain = SamModel.encode_batch_steps

    def count(self, planes):  # type: ignore[no-untyped-def]
        encoded.append(len(planes))
        return plain(self, planes)

    monkeypatch.setattr(SamModel, "encode_batch_steps", count)
    image = LabelledImage("elsewhere", open_image(picture), labels)
    job = TuningJob(
        [image], model, tmp_path / "out", plan(steps=1), stores=[str(store)]
    )
    run_steps(job.run_steps())
    assert encoded == []
    tune([image], model, tmp_path / "other", plan(steps=1, variants=3))
    assert encoded == [1, 1, 1]


def test_a_large_plane_is_learned_in_the_tiles_it_is_prompted_in(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = (np.tile(a, (2, 3)) for a in coin_labels)
    labels = labels + 100 * np.kron(
        np.arange(6).reshape(2, 3), np.ones((128, 128), int)
    )
    labels[np.tile(coin_labels[1], (2, 3)) == 0] = 0
    job = TuningJob(
        [LabelledImage("large", open_image(picture), labels.astype(np.int64))],
        model,
        tmp_path,
        dataclasses.replace(plan(steps=2), tiles=TileSettings("auto", 128)),
    )
    steps = job.run_steps()
    for step in steps:
        if isinstance(step, TrainingProgress):
            break
    views = ViewSet.load(tmp_path / "work")
    assert len({view.tile for view in views.views}) > 4
    for view in views.views:
        y0, x0, y1, x1 = view.tile
        for row in range(view.first, view.last):
            ids = views.objects.object_ids[row]
            by0, bx0, by1, bx1 = views.objects.boxes_yx[row]
            cut = labels[y0:y1, x0:x1][by0:by1, bx0:bx1] == ids
            assert np.array_equal(views.objects.crop(row), cut)
    steps.close()


def test_the_whole_model_learns_from_pixels(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    wanted = plan(steps=48, variants=2)
    tune_all = dataclasses.replace(wanted.tune, train="everything")
    wanted = dataclasses.replace(wanted, tune=tune_all)
    result = tune([labelled(coin_labels)], model, tmp_path / "all", wanted)
    tuned = load_model(result.last, device="cpu")
    assert tuned.encoder_digest != model.encoder_digest
    assert result.before is not None
    assert result.after is not None
    assert result.after.score > result.before.score
    assert not (tmp_path / "all" / "work").exists()


def test_what_cannot_be_trained_on(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    empty = LabelledImage("blank", open_image(picture), np.zeros_like(labels))
    with pytest.raises(InvalidLabelsError, match=r"no object of at least 30 px.*blank"):
        tune([empty], model, tmp_path, plan())
    with pytest.raises(MissingFileError, match="no training to resume"):
        run_steps(TuningJob([], model, tmp_path, plan()).run_steps(resume=True))


def test_a_loss_that_is_no_number_keeps_what_was_learned(
    coin_labels, model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_samseg.core.training import batches

    plain = batches.prompted_loss
    calls = []

    def spoil(*args, **options):  # type: ignore[no-untyped-def]
        found = plain(*args, **options)
        calls.append(1)
        if len(calls) > 5:
            return dataclasses.replace(found, total=found.total * float("nan"))
        return found

    monkeypatch.setattr(batches, "prompted_loss", spoil)
    with pytest.raises(TrainingError, match=r"step 6.*objects of a, plane 0"):
        tune([labelled(coin_labels)], model, tmp_path, plan())
    for name in ("best", "last"):
        kept = load_model(tmp_path / f"{name}.safetensors", device="cpu")
        assert all(v.isfinite().all() for v in kept.sam.state_dict().values())


def test_a_full_disk_leaves_the_old_weights(
    coin_labels, model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune([labelled(coin_labels)], model, tmp_path, plan(steps=2))
    before = (tmp_path / "best.safetensors").read_bytes()

    def full(*args: object, **options: object) -> None:
        # which is an error of no other kind
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match=r"best.safetensors.*make room.*is kept"):
        tune([labelled(coin_labels)], model, tmp_path, plan(steps=4), overwrite=True)
    assert (tmp_path / "best.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_memory_that_runs_out_makes_batches_smaller(
    coin_labels, model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_samseg.core.training import batches

    plain = batches.TuneLoss.__call__

    def limited(self, module, batch, number):  # type: ignore[no-untyped-def]
        if len(batch) > 1:
            raise MemoryError
        return plain(self, module, batch, number)

    monkeypatch.setattr(batches.TuneLoss, "__call__", limited)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = tune([labelled(coin_labels)], model, tmp_path, plan(steps=3))
    assert [str(w.message).split(": ")[1] for w in told] == [
        "training on batches in 2 parts instead",
        "training on batches in 4 parts instead",
    ]
    assert result.last.exists()


@pytest.mark.parametrize("train", ["lora", "lora+decoder"])
def test_adapters_are_written_alone_and_merged(
    coin_labels, model: SamModel, tmp_path: Path, train: str
) -> None:
    wanted = plan(steps=8)
    wanted = dataclasses.replace(
        wanted, tune=dataclasses.replace(wanted.tune, train=train)
    )
    before = set(model.sam.state_dict())
    result = tune([labelled(coin_labels)], model, tmp_path, wanted)
    assert set(model.sam.state_dict()) == before
    merged = load_model(result.last, device="cpu", precision="exact")
    assert set(merged.sam.state_dict()) == before
    adapters = load_file(tmp_path / "last_lora.safetensors")
    assert adapters
    if train == "lora":
        load_lora(model.sam, adapters)
        merge_lora(model.sam)
        for name, value in merged.sam.state_dict().items():
            torch.testing.assert_close(value, model.sam.state_dict()[name])


def test_embeddings_of_a_training_stay_in_its_folder(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    job = TuningJob([labelled(coin_labels)], model, tmp_path, plan(variants=3))
    steps = job.run_steps()
    for step in steps:
        if isinstance(step, TrainingProgress):
            break
    recipes = EmbeddingStore(tmp_path / "work" / "embeddings").recipes()
    assert len(recipes) == 3
    steps.close()


def test_images_of_the_same_name_stay_apart(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    picture, labels = coin_labels
    pair = (255 - picture, labels), (picture[:, ::-1].copy(), labels[:, ::-1])
    job = TuningJob([labelled(one) for one in pair], model, tmp_path, plan(steps=2))
    steps = job.run_steps()
    for step in steps:
        if isinstance(step, TrainingProgress):
            break
    views = ViewSet.load(tmp_path / "work")
    assert {view.image for view in views.views} == {"a", "a (2)"}
    assert len(views.training) == 2
    first, second = (views.embedding(v[0]).features for v in views.training)
    assert not np.allclose(first["image_embed"], second["image_embed"], atol=1e-3)
    steps.close()


def test_dropout_of_adapters_acts_on_what_is_learned_alone(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    def last(name: str, dropout: float) -> TuneResult:
        wanted = dataclasses.replace(plan(steps=4), lora=LoraSettings(dropout=dropout))
        wanted = dataclasses.replace(
            wanted, tune=dataclasses.replace(wanted.tune, train="lora")
        )
        return tune([labelled(coin_labels)], model, tmp_path / name, wanted)

    found = [last("a", 0.9), last("b", 0.9), last("c", 0.0)]
    weights = [load_file(result.last) for result in found]
    different = [n for n in weights[0] if not torch.equal(weights[0][n], weights[2][n])]
    assert different
    # what is scored has no part in chance
    assert found[0].after == found[1].after
    assert found[0].before == found[2].before


def test_a_training_of_a_named_model_says_how_it_was_started(
    coin_labels, tmp_path: Path
) -> None:
    chosen, wanted = ModelSettings(device="cpu"), plan(steps=3)
    job = TuningJob([labelled(coin_labels)], chosen, tmp_path / "tuned" / "x", wanted)
    steps = job.run_steps()
    for step in steps:
        if isinstance(step, TrainingProgress):
            break
    steps.close()
    assert unfinished_trainings(tmp_path) == {"x": tmp_path / "tuned" / "x"}
    assert read_recipe(tmp_path / "tuned" / "x").model == chosen


def test_a_damaged_folder_is_told_and_never_learned_from(
    coin_labels, model: SamModel, tmp_path: Path
) -> None:
    job = TuningJob([labelled(coin_labels)], model, tmp_path / "a", plan())
    steps = job.run_steps()
    next(step for step in steps if isinstance(step, TrainingProgress))
    steps.close()
    work = tmp_path / "a" / "work"
    for name in ("views.json", "objects.npz", "objects.bin"):
        content = (work / name).read_bytes()
        (work / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match="damaged"):
            ViewSet.load(work)
        (work / name).write_bytes(content)
    (work / "objects.bin").unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        ViewSet.load(work)


def test_a_missing_library_is_told_before_anything_is_encoded(
    coin_labels, model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    job = TuningJob(
        [labelled(coin_labels)], model, tmp_path / "a", plan(), loggers=["wandb"]
    )
    with pytest.raises(MissingDependencyError, match="wandb"):
        next(job.run_steps())
    assert not (tmp_path / "a").exists()


def test_masks_on_the_processor_are_of_the_weights_of_now(model: SamModel) -> None:
    old = model._cpu_copy
    model.drop_copies()
    assert model._cpu_copy is not old
