"""The two-way transformer on some tokens of an image, beside that on all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling.transformer import TwoWayTransformer
from skimage import data
from skimage.measure import label

from napari_samseg.core.models import load_model
from napari_samseg.core.models.two_way import two_way
from napari_samseg.core.prompts.from_labels import (
    sample_jittered_box,
    sample_random_point,
)
from napari_samseg.core.prompts.object_index import index_objects
from napari_samseg.core.training import prompted
from napari_samseg.core.training.cutting import surround
from napari_samseg.core.training.prompted import FramePrompts
from napari_samseg.core.training.targets import window_targets


@pytest.fixture
def transformer() -> TwoWayTransformer:
    torch.manual_seed(0)
    return TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=16)


@pytest.mark.parametrize("n_prompts", [3, 40])
def test_it_is_segment_anythings(
    transformer: TwoWayTransformer, n_prompts: int
) -> None:
    # biases are zeros at first, which would hide one that is forgotten
    for name, tensor in transformer.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(tensor)
    image, places = torch.randn(2, 32, 5, 7), torch.randn(1, 32, 5, 7)
    # more of them than pay to be projected in place of the image
    tokens = torch.randn(2, n_prompts, 32)
    expected = transformer(image, places.expand(2, -1, -1, -1), tokens)
    flat = [x.flatten(2).transpose(1, 2) for x in (image, places)]
    for one, other in zip(two_way(transformer, *flat, tokens), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_token_counts_as_often_as_it_is_said_to(
    transformer: TwoWayTransformer,
) -> None:
    keys, places = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
    tokens = torch.randn(1, 3, 32)
    counts = torch.tensor([1, 3, 0, 1, 2, 0])
    many = counts.repeat_interleave(counts)
    repeated = torch.arange(6).repeat_interleave(counts)
    assert len(many) == 7
    expected, _ = two_way(transformer, keys[:, repeated], places[:, repeated], tokens)
    found, _ = two_way(transformer, keys, places, tokens, counts.log()[None])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_counts_of_any_precision_in_mixed_precision(
    transformer: TwoWayTransformer, precision: torch.dtype
) -> None:
    keys, places = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
    tokens = torch.randn(1, 3, 32)
    counts = torch.tensor([[1, 3, 0, 1, 2, 0]]).log()
    expected, _ = two_way(transformer, keys, places, tokens, counts)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = two_way(transformer, keys, places, tokens, counts.to(precision))
    assert found.dtype == torch.bfloat16
    # eight bits of precision, values up to 3
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("sample", [sample_random_point, sample_jittered_box])
def test_surroundings_with_a_coarse_rest_are_almost_the_whole(
    sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model("default", device="cpu")
    coins = data.coins()[:256, :256]
    size = coins.shape
    rng = np.random.default_rng(0)
    objects = index_objects(label(coins > 130), min_area=200)
    plane = np.repeat(coins[..., None], 3, axis=2).astype(np.float32)
    embedding = model.encode(plane).features["image_embed"]
    features = torch.tensor(np.asarray(embedding, np.float32))[None]
    crops = [
        objects.labels[y0:y1, x0:x1] == i
        for i, (y0, x0, y1, x1) in zip(
            objects.object_ids, objects.boxes_yx, strict=True
        )
    ]
    targets = window_targets(crops, objects.boxes_yx, size, model.input_size)
    windows = surround(targets, 64)
    assert windows is not None
    prompts = FramePrompts.of(sample(objects, rng), size, model)
    with torch.no_grad():
        whole, quality = prompted._decode(model, features, prompts, None)
        near, _ = prompted._decode(model, features, prompts, windows)
        cut = windows.cut(features)
        alone, _ = prompted._decode(model, cut, prompts, windows)
    wanted = windows.cut(whole, 4)
    assert wanted.shape == near.shape
    # how much the rest matters differs by the weights; without it, both are the same
    assert (near - wanted).abs().mean() < 0.8 * (alone - wanted).abs().mean()
    agree = ((near > 0) == (wanted > 0)).float().mean()
    assert agree > 0.995
    rows, best = torch.arange(len(quality)), quality.argmax(dim=1)
    found, right = near[rows, best] > 0, wanted[rows, best] > 0
    overlap = (found & right).sum((1, 2)) / (found | right).sum((1, 2))
    assert overlap.mean() > 0.97
