from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.draw import disk

from napari_samseg.core.errors import InvalidLabelsError, SettingsError
from napari_samseg.core.images import open_image
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import AugmentSettings, TileSettings, TuneSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training import prompted
from napari_samseg.core.training.batches import BatchSource, TuneLoss
from napari_samseg.core.training.class_planes import ClassPlanes
from napari_samseg.core.training.images import LabelledImage
from napari_samseg.core.training.losses import read_loss
from napari_samseg.core.training.prepare import prepare_steps
from napari_samseg.core.training.survey import survey_steps
from napari_samseg.core.training.views import ViewSet

COMMON, RARE = 3, 5


def discs(name: str, n_common: int, n_rare: int) -> LabelledImage:
    """An image of discs, and their classes."""
    classes = np.zeros((128, 128), np.int32)
    for i in range(n_common + n_rare):
        row, column = divmod(i, 4)
        value = COMMON if i < n_common else RARE
        classes[disk((16 + 32 * row, 16 + 32 * column), 10)] = value
    picture = open_image((40 * classes).astype(np.uint8))
    return LabelledImage(name, picture, ClassPlanes(classes))


def prepare(
    images: list[LabelledImage], model: SamModel, folder: Path, settings: TuneSettings
) -> ViewSet:
    return run_steps(
        prepare_steps(
            images,
            run_steps(survey_steps(images, settings.min_area)),
            model,
            folder,
            settings,
            augmenting=AugmentSettings(variants=2),
            tiles=TileSettings(),
        )
    )


def share_of_rare(views: ViewSet, settings: TuneSettings) -> float:
    """Share of the objects of 200 batches that are of the rare class."""
    source = BatchSource(views, settings, seed=0)
    found = []
    for number in range(200):
        batch = source(number)
        view = batch.view
        boxes = views.objects.boxes_yx[view.first : view.last]
        same = (batch.boxes_yx[:, None] == boxes[None]).all(axis=2)
        assert (same.sum(axis=1) == 1).all()
        classes = views.objects.classes[view.first : view.last]
        found += classes[same.argmax(axis=1)].tolist()
    return float(np.mean(np.array(found) == RARE))


def test_rare_classes_are_drawn_as_often_as_common_ones(
    model: SamModel, tmp_path: Path
) -> None:
    images = [discs("a", 7, 1), discs("b", 12, 0)]
    settings = TuneSettings(validation=0.0, balance="classes")
    assert settings.objects == 8  # as many as there are in the first image
    views = prepare(images, model, tmp_path, settings)
    assert set(views.objects.classes.tolist()) == {COMMON, RARE}
    plain = dataclasses.replace(settings, balance="objects")
    balanced, each = (share_of_rare(views, kind) for kind in (settings, plain))
    assert 0.45 < balanced < 0.55
    assert each < 0.1
    batches = [BatchSource(views, settings, seed=0)(n) for n in range(20)]
    again = next(b for b in batches if len(np.unique(b.boxes_yx, axis=0)) < len(b))
    # an object that is drawn again is prompted anew, and in its own mask
    assert len(np.unique(again.prompts.points_yx, axis=0)) == len(again) or (
        len(np.unique(again.prompts.boxes_yx, axis=0)) == len(again)
    )


def test_first_prompts_come_in_their_shares(model: SamModel, tmp_path: Path) -> None:
    settings = TuneSettings(validation=0.0, box=1, point=2, box_and_point=5)
    views = prepare([discs("a", 5, 0)], model, tmp_path, settings)
    source = BatchSource(views, settings, seed=0)
    loss = TuneLoss(model, settings, read_loss(settings.loss), AugmentSettings())
    counts: Counter[str] = Counter()
    figures: set[str] = set()
    for number in range(160):
        prompts = source(number).prompts
        has_points = prompts.points_yx.shape[1] > 0
        counts[f"box {prompts.has_box.all()}, point {has_points}"] += 1
        if number < 20:
            figures |= set(loss(model.sam, source(number), number)[1])
    assert figures == {"box", "point", "box and point", "corrected"}
    expected = {"box True, point False": 20, "box False, point True": 40}
    expected["box True, point True"] = 100
    assert set(counts) == set(expected)
    for kind, n in expected.items():
        assert abs(counts[kind] - n) < 25
    assert TuneSettings(box=0).scored_kinds == ("point",)
    assert TuneSettings(box=0, point=0, box_and_point=1).scored_kinds == (
        "box",
        "point",
    )
    with pytest.raises(SettingsError, match="no prompt"):
        TuneSettings(box=0, point=0)


def test_each_object_has_the_same_weight(model: SamModel, tmp_path: Path) -> None:
    images = [discs("crowded", 9, 0), discs("lone", 1, 0)]
    settings = TuneSettings(validation=0.0)
    source = BatchSource(prepare(images, model, tmp_path, settings), settings, seed=0)
    batches = [source(number) for number in range(source.per_epoch)]
    assert sorted(map(len, batches)) == [1, 1, 8]
    each = {source.weigh(batch) / len(batch) for batch in batches}
    assert len(each) == 1
    # an epoch takes each object once, whichever variant it is cut from
    for epoch in range(3):
        drawn = [source(epoch * source.per_epoch + n) for n in range(source.per_epoch)]
        taken = [(b.view.image, *box) for b in drawn for box in b.boxes_yx.tolist()]
        assert len(set(taken)) == len(taken) == 10
    assert sum(map(source.weigh, batches)) == pytest.approx(len(batches))


def test_a_topological_loss_trains_on_whole_masks(
    model: SamModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gudhi")
    plain = prompted.decode_objects

    def losses(loss: str, blob: float) -> float:
        """The loss of a batch whose masks have a blob far from the object."""

        def draw(*inputs: Any, **chosen: Any) -> tuple[torch.Tensor, torch.Tensor]:
            logits, quality = plain(*inputs, **chosen)
            at = (torch.arange(logits.shape[-1]) + 0.5) * 128 / logits.shape[-1]
            away = (at[:, None] - 16) ** 2 + (at - 16) ** 2
            drawn = torch.where(away < 100, 9.0, -9.0)
            drawn[-6:-2, -6:-2] = blob
            return logits + drawn - logits.detach(), quality

        monkeypatch.setattr(prompted, "decode_objects", draw)
        judge = TuneLoss(model, settings, read_loss(loss), AugmentSettings())
        total, _ = judge(model.sam, batch, 0)
        total.backward()
        return float(total.detach())

    settings = TuneSettings(
        validation=0.0, corrections=0, box=1, point=0, surroundings=1, iou_weight=0
    )
    views = prepare([discs("a", 1, 0)], model, tmp_path, settings)
    batch = BatchSource(views, settings, seed=0)(0)
    model.sam.mask_decoder.requires_grad_(True)
    change = {
        loss: losses(loss, 6.0) - losses(loss, -9.0)
        for loss in ("dice_bce", "dice_bce + 2*topology")
    }
    assert change["dice_bce + 2*topology"] > change["dice_bce"] + 0.2


def test_images_of_few_objects_are_drawn_as_often_as_others(
    model: SamModel, tmp_path: Path
) -> None:
    images = [discs("crowded", 12, 0), discs("sparse", 2, 0)]
    settings = TuneSettings(objects=2, validation=0.0, balance="images")
    source = BatchSource(prepare(images, model, tmp_path, settings), settings, seed=0)
    names = [source(number).view.image for number in range(200)]
    assert 0.4 < names.count("sparse") / len(names) < 0.6


def test_instances_have_no_classes_to_balance(model: SamModel, tmp_path: Path) -> None:
    one = discs("a", 3, 0)
    image = LabelledImage("nuclei", one.source, np.asarray(one.labels[()]))
    with pytest.raises(InvalidLabelsError, match="of nuclei tell objects apart"):
        prepare([image], model, tmp_path, TuneSettings(balance="classes"))


def test_embeddings_vary_in_each_step_and_by_the_seed_alone(
    model: SamModel, tmp_path: Path
) -> None:
    settings = TuneSettings(validation=0.0, corrections=0)
    source = BatchSource(
        prepare([discs("a", 5, 0)], model, tmp_path, settings), settings, seed=0
    )
    batch = source(0)

    def loss_of(seed: int, **augmenting: float) -> float:
        varied = TuneLoss(
            model, settings, read_loss(settings.loss), AugmentSettings(**augmenting)
        )
        return float(varied(model.sam, dataclasses.replace(batch, seed=seed), 0)[0])

    with torch.no_grad():
        plain = {loss_of(seed) for seed in range(3)}
        assert len(plain) == 1
        for augmenting in ({"feature_noise": 0.5}, {"feature_dropout": 0.3}):
            found = [loss_of(seed, **augmenting) for seed in range(3)]
            assert len({*found, *plain}) == 4
            assert loss_of(1, **augmenting) == found[1]
