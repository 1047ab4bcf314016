from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.prompts.from_labels import (
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.prompts.object_index import ObjectIndex, index_objects
from napari_samseg.core.training.cutting import TokenWindows, surround
from napari_samseg.core.training.losses import read_loss
from napari_samseg.core.training.objective import object_loss
from napari_samseg.core.training.prompted import (
    FramePrompts,
    PromptedLoss,
    _error_clicks,
    nothing_loss,
    prompted_loss,
)
from napari_samseg.core.training.targets import ObjectTargets, window_targets


def targets_of(objects: ObjectIndex, side: int) -> ObjectTargets:
    crops = [
        objects.labels[y0:y1, x0:x1] == object_id
        for object_id, (y0, x0, y1, x1) in zip(
            objects.object_ids, objects.boxes_yx, strict=True
        )
    ]
    return window_targets(
        crops, objects.boxes_yx, objects.labels.shape, side, clicks=True
    )


def lose(
    model: SamModel,
    image: tuple[np.ndarray, np.ndarray],
    sampler=sample_jittered_box,
    *,
    windows: str | None = None,
    corrections: int = 0,
    previous: float = 0.5,
) -> PromptedLoss:
    picture, labels = image
    plane = normalise_plane(picture)
    objects = index_objects(labels)
    targets = targets_of(objects, model.input_size)
    prompts = sampler(objects, np.random.default_rng(0))
    features = torch.tensor(model.encode(plane).features["image_embed"])[None]
    whole = TokenWindows(torch.zeros(len(objects), 2, dtype=torch.long), 16, 16)
    return prompted_loss(
        model,
        features,
        FramePrompts.of(prompts, labels.shape, model),
        targets,
        read_loss("dice_bce"),
        np.random.default_rng(1),
        windows=whole if windows == "whole" else None,
        corrections=corrections,
        previous=previous,
    )


@pytest.mark.parametrize("sampler", [sample_jittered_box, sample_random_point])
def test_gradient_reaches_what_learns(coin_labels, model: SamModel, sampler) -> None:
    model.sam.mask_decoder.requires_grad_(True)
    found = lose(model, coin_labels, sampler, corrections=2)
    found.total.backward()
    # the single mask learns from boxes and corrections, the other three from points
    learned = [
        head.layers[0].weight.grad is not None
        and bool(head.layers[0].weight.grad.abs().max() > 0)
        for head in model.sam.mask_decoder.output_hypernetworks_mlps
    ]
    by_point = sampler is sample_random_point
    assert learned == [True, by_point, by_point, by_point]
    assert all(p.grad is None for p in model.sam.image_encoder.parameters())
    assert ((found.first_iou >= 0) & (found.last_iou <= 1)).all()


@pytest.mark.parametrize("sampler", [sample_jittered_box, sample_random_point])
def test_little_is_thought_of_masks_of_nothing(
    coin_labels, model: SamModel, sampler
) -> None:
    picture, labels = coin_labels
    features = torch.tensor(
        model.encode(normalise_plane(picture)).features["image_embed"]
    )
    drawn = sampler(index_objects(labels), np.random.default_rng(0))
    prompts = FramePrompts.of(drawn, labels.shape, model)
    decoder = model.sam.mask_decoder.requires_grad_(True)
    costs = nothing_loss(model, features[None], prompts)
    assert costs.shape == (len(drawn.object_ids),)
    costs.sum().backward()
    # the worth of masks learns, and no mask by itself
    assert decoder.iou_prediction_head.layers[-1].weight.grad.abs().max() > 0
    heads = decoder.output_hypernetworks_mlps
    assert all(p.grad is None for head in heads for p in head.parameters())
    by_point = sampler is sample_random_point
    embedding = model.encode(normalise_plane(picture))
    found = model.decode(embedding, drawn, multimask=by_point)
    expected = torch.from_numpy(found.iou_predictions).square().mean(1)
    torch.testing.assert_close(costs.detach(), expected, rtol=1e-3, atol=1e-4)


def test_a_window_of_everything_is_everything(coin_labels, model: SamModel) -> None:
    for previous in (0.0, 1.0):
        options = {"corrections": 2, "previous": previous}
        one = lose(model, coin_labels, **options)
        other = lose(model, coin_labels, windows="whole", **options)
        torch.testing.assert_close(one.total, other.total)
        torch.testing.assert_close(one.last_iou, other.last_iou)


def test_windows_hold_their_objects_and_cut_what_lies_there() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.4, 0.6, 0.5, 0.75]])
    targets = ObjectTargets(boxes, torch.zeros(2, 4, 4))
    windows = surround(targets, 64)
    assert windows is not None
    assert windows.side == 16
    assert windows.origins_yx.tolist() == [[0, 0], [35, 21]]
    moved = windows.move(targets).windows_xyxy
    assert ((moved >= 0) & (moved <= 1)).all()
    torch.testing.assert_close(windows.points_to_whole(moved[:, :2]), boxes[:, :2])
    grid = torch.arange(64.0 * 64).view(1, 1, 64, 64)
    assert windows.cut(grid)[1, 0, 0, 0] == 35 * 64 + 21
    large = ObjectTargets(torch.tensor([[0.0, 0.0, 0.9, 0.2]]), torch.zeros(1, 4, 4))
    assert surround(large, 64) is None


def test_a_click_corrects_what_is_wrong(coin_labels, model: SamModel) -> None:
    """A model that draws what it is told to needs corrections."""
    _, labels = coin_labels
    objects = index_objects(labels)
    targets = targets_of(objects, model.input_size)
    side = 64
    empty = torch.full((len(objects), 1, side, side), -5.0)
    points, kinds = _error_clicks(empty, targets, np.random.default_rng(0))
    assert (kinds == 1).all()
    x, y = (points * labels.shape[0]).long().unbind(1)
    assert labels[y, x].tolist() == objects.object_ids.tolist()
    _, kinds = _error_clicks(-empty, targets, np.random.default_rng(0))
    assert (kinds == 0).all()


def lines(height: int, width: int, n: int = 20) -> tuple[list[np.ndarray], np.ndarray]:
    """Bars anywhere in 512 x 512, as crops and boxes."""
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 512 - height, n), rng.integers(0, 512 - width, n)
    boxes = np.stack([y, x, y + height, x + width], axis=1)
    return [np.ones((height, width), bool)] * n, boxes


@pytest.mark.parametrize(
    ("shape", "plane"), [((1, 100), False), ((2, 300), False), ((6, 6), True)]
)
def test_thin_and_small_objects_have_targets_and_clicks_on_them(shape, plane) -> None:
    crops, boxes = lines(*shape)
    targets = window_targets(crops, boxes, (512, 512), 128, plane=plane, clicks=True)
    # what is covered in all is the area of the object, in pixels
    sizes = 512 * (targets.windows_xyxy[:, 2:] - targets.windows_xyxy[:, :2])
    areas = targets.masks.sum((1, 2)) * sizes.prod(1) / 48**2
    torch.testing.assert_close(areas, torch.full_like(areas, shape[0] * shape[1]))
    assert targets.is_object.any((1, 2)).all()
    nothing = torch.full((len(crops), 1, 32, 32), -5.0)
    points, kinds = _error_clicks(nothing, targets, np.random.default_rng(0))
    assert (kinds == 1).all()
    x, y = (512 * points.numpy()).T
    inside = (boxes[:, 0] <= y) & (y <= boxes[:, 2])
    assert (inside & (boxes[:, 1] <= x) & (x <= boxes[:, 3])).all()


def test_whole_masks_leave_out_padding() -> None:
    crop = np.ones((20, 10), bool)
    box = np.array([[20, 50, 40, 60]])
    targets = window_targets([crop], box, (50, 100), 128, logits_side=32)
    assert targets.whole is not None
    assert targets.whole.shape == (1, 16, 32)  # of 32 x 32, the half is padding
    cell = 100 / 32
    assert targets.whole.sum() * cell**2 == pytest.approx(200, rel=1e-4)
    assert targets.whole[0, 8, 17] == 1


def test_targets_agree_with_the_decoder_about_places() -> None:
    """Logits that are the distance to a rectangle's sides find that rectangle."""
    boxes = np.array([[5, 50, 25, 85], [40, 2, 58, 12]])
    at = (np.arange(64) + 0.5) * 2 * 90 / 128  # places of the logits in the plane
    logits = torch.zeros(2, 1, 64, 64)
    for i, (y0, x0, y1, x1) in enumerate(boxes):
        inside_y, inside_x = np.minimum(at - y0, y1 - at), np.minimum(at - x0, x1 - at)
        depth = np.minimum(inside_y[:, None], inside_x[None])
        logits[i, 0] = torch.from_numpy(depth)
    crops = [np.ones((y1 - y0, x1 - x0), bool) for y0, x0, y1, x1 in boxes]
    for whole, least in ((False, 0.99), (True, 0.85)):
        targets = window_targets(crops, boxes, (60, 90), 128, plane=whole)
        assert (object_loss(logits, torch.ones(2, 1), targets).iou > least).all()
        shifted = object_loss(logits.roll(4, dims=3), torch.ones(2, 1), targets)
        assert (shifted.iou < 0.85).all()
