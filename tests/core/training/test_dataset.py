from __future__ import annotations

import numpy as np
import pytest
import torch
from napari_samseg.core.training.dataset import (
    TrainingSample,
    draw_sample,
    sample_loss,
    window_targets,
)
from skimage.data import coins
from skimage.filters import threshold_otsu
from skimage.measure import label

from napari_samseg.core.contrast import normalise_plane
from napari_samseg.core.errors import InvalidLabelsError
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.tiny import TinyConfig, build_tiny, prompt_prior
from napari_samseg.core.prompts.from_labels import (
    sample_box,
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.training.loop import TrainingLoop
from napari_samseg.core.training.objective import object_loss

CONFIG = TinyConfig(
    input_size=128,
    embed_dim=32,
    widths=(8, 16, 16, 16, 16),
    depths=(0, 0, 0, 0, 0),
    decoder_heads=4,
    mlp_dim=32,
    mask_channels=4,
)


@pytest.fixture
def coin_plane() -> tuple[np.ndarray, np.ndarray]:
    """A corner of scikit-image's coins with the components of Otsu's threshold."""
    picture = coins()[150:278, 40:168]
    labels = label(picture > threshold_otsu(picture))
    return normalise_plane(picture), labels


@pytest.fixture
def model() -> SamModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = build_tiny(CONFIG)
    return SamModel(sam, name="test", family="tiny", prior=prompt_prior)


def test_tuning_the_decoder_on_an_embedding_learns_a_real_image(
    coin_plane: tuple[np.ndarray, np.ndarray], model: SamModel
) -> None:
    plane, labels = coin_plane
    embedding = model.encode(plane)
    objects = index_objects(labels, min_area=200)
    model.sam.mask_decoder.requires_grad_(True)
    model.sam.prompt_encoder.mask_downscaling.requires_grad_(True)
    encoder = {k: v.clone() for k, v in model.sam.image_encoder.state_dict().items()}

    def batch_at(step: int) -> TrainingSample:
        rng = np.random.default_rng(step)
        return draw_sample(embedding, objects, sample_jittered_box, rng, max_objects=6)

    def compute_loss(
        module: torch.nn.Module, sample: TrainingSample, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        losses = sample_loss(model, sample, multimask=False)
        total = (losses.mask + losses.iou_error).mean()
        return total, {"iou": float(losses.iou.mean())}

    settings = LoopSettings(steps=150, learning_rate=1e-2, warmup_steps=10)
    loop = TrainingLoop(model.sam, batch_at, compute_loss, settings)
    told, ious = [], []
    for progress in loop.run():
        told.append(progress.train_loss)
        ious.append(loop.figures["iou"])
    assert np.mean(told[-10:]) < 0.6 * np.mean(told[:5])
    assert np.mean(ious[-10:]) > 0.8
    for name, value in model.sam.image_encoder.state_dict().items():
        assert torch.equal(value, encoder[name])


@pytest.mark.parametrize("multimask", [False, True])
def test_gradient_reaches_what_learns(
    coin_plane: tuple[np.ndarray, np.ndarray], model: SamModel, multimask: bool
) -> None:
    plane, labels = coin_plane
    model.sam.mask_decoder.requires_grad_(True)
    objects = index_objects(labels, min_area=200)
    rng = np.random.default_rng(0)
    sample = draw_sample(model.encode(plane), objects, sample_random_point, rng)
    losses = sample_loss(model, sample, multimask=multimask)
    (losses.mask.mean() + losses.iou_error.mean()).backward()
    tokens = model.sam.mask_decoder.mask_tokens.weight
    assert tokens.grad is not None
    assert tokens.grad.abs().max() > 0
    assert all(p.grad is None for p in model.sam.image_encoder.parameters())


def test_targets_agree_with_the_decoder_about_places() -> None:
    """Logits that are the distance to a rectangle's sides find that rectangle."""
    masks = np.zeros((2, 60, 90), bool)
    boxes = np.array([[5, 50, 25, 85], [40, 2, 58, 12]])
    at = (np.arange(64) + 0.5) * 2 * 90 / 128  # places of the logits in the plane
    logits = torch.zeros(2, 1, 64, 64)
    for i, (y0, x0, y1, x1) in enumerate(boxes):
        masks[i, y0:y1, x0:x1] = True
        inside_y, inside_x = np.minimum(at - y0, y1 - at), np.minimum(at - x0, x1 - at)
        depth = np.minimum(inside_y[:, None], inside_x[None])
        logits[i, 0] = torch.from_numpy(depth)
    targets = window_targets(masks, (85, 128), 128)
    assert (object_loss(logits, torch.ones(2, 1), targets).iou > 0.99).all()
    shifted = object_loss(logits.roll(1, dims=3), torch.ones(2, 1), targets)
    assert (shifted.iou < 0.95).all()


def test_masks_must_fit(
    coin_plane: tuple[np.ndarray, np.ndarray], model: SamModel
) -> None:
    plane, labels = coin_plane
    embedding = model.encode(plane)
    objects = index_objects(labels, min_area=200)
    rng = np.random.default_rng(0)
    prompts = sample_box(objects, rng)
    with pytest.raises(InvalidLabelsError, match="is needed"):
        TrainingSample(embedding, prompts, np.ones((1, 128, 128), bool))
    with pytest.raises(InvalidLabelsError, match="is empty"):
        TrainingSample(embedding, prompts, np.zeros((len(prompts), 128, 128), bool))
    nothing = index_objects(np.zeros((128, 128), int))
    with pytest.raises(InvalidLabelsError, match="no object"):
        draw_sample(embedding, nothing, sample_box, rng)
