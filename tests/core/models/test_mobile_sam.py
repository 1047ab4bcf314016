"""TinyViT against the published implementation, which the testing extra brings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_samseg.core.models.mobile_sam import ConvNorm, build_mobile_sam
from napari_samseg.core.models.sam import SamModel, resize_positions

reference = pytest.importorskip("mobile_sam")


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Fill what starts at zero or one, so that nothing can be dropped unseen."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            noise = torch.empty_like(tensor).normal_(0, 0.05, generator=generator)
            tensor.add_(noise)
    return module.eval()  # now the reference takes over its attention biases


@pytest.fixture(scope="module")
def published():
    return randomised(reference.sam_model_registry["vit_t"]())


def test_tensors_have_the_published_names_and_shapes(published):
    with torch.device("meta"):
        ours = build_mobile_sam().state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in published.state_dict().items()
    }


def test_embeddings_are_the_published_ones():
    """At 224 px; the reference hard-codes the grid of 1024 px in its last step."""

    class Small(reference.modeling.TinyViT):
        def forward(self, x):
            x = self.patch_embed(x)
            for layer in self.layers:
                x = layer(x)
            side = self.img_size // 16
            x = x.view(len(x), side, side, -1).permute(0, 3, 1, 2)
            return self.neck(x)

    theirs = Small(
        img_size=224,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
    randomised(theirs)
    ours = build_mobile_sam(224).image_encoder
    ours.load_state_dict(theirs.state_dict(), strict=True)
    pixels = torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(pixels)
        actual = ours(pixels)
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_another_input_size_changes_no_tensor():
    sam = build_mobile_sam(64)
    before = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    resize_positions(sam, 96)
    assert all(torch.equal(tensor, before[k]) for k, tensor in sam.state_dict().items())
    model = SamModel(sam, name="vit_t", family="mobile_sam")
    embedding = model.encode(np.zeros((50, 96, 3), np.float32))
    assert embedding.features["image_embed"].shape == (256, 6, 6)


@pytest.mark.slow
def test_masks_are_the_published_ones_at_full_size(published):
    ours = build_mobile_sam()
    ours.load_state_dict(published.state_dict(), strict=True)
    plane = np.random.default_rng(0).uniform(0, 255, (60, 100, 3)).astype(np.float32)
    model = SamModel(ours, name="vit_t", family="mobile_sam")
    embedding = model.encode(plane)
    with torch.inference_mode():
        expected = published.image_encoder(model._preprocess([plane]))[0].numpy()
    features = embedding.features["image_embed"]
    np.testing.assert_allclose(features, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_folded_norm_computes_the_same_and_can_be_tuned(kernel):
    layer = randomised(ConvNorm(8, 8, kernel, stride=kernel, groups=kernel // 2 or 1))
    pixels = torch.randn(2, 8, 9, 9)
    expected = layer.bn(layer.c(pixels))
    found = layer(pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    found.square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_training_still_moves_the_running_statistics():
    layer = ConvNorm(4, 4).train()
    layer(torch.randn(2, 4, 5, 5) + 3)
    assert layer.bn.running_mean.abs().max() > 0
