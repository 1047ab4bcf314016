"""Adapters on real small models of all families."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_models import build_small

from napari_samseg.core.errors import CheckpointError, SettingsError
from napari_samseg.core.models.mobile_sam import TinyViTConfig, build_mobile_sam
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.settings import LoraSettings
from napari_samseg.core.training.lora import (
    add_lora,
    has_lora,
    load_lora,
    lora_parameters,
    lora_state,
    merge_lora,
    remove_lora,
)
from napari_samseg.core.training.lora_layer import LoraLayer
from napari_samseg.core.training.lora_targets import LORA_TARGETS, matching_targets

SIDE = 64
CONVOLUTIONAL = {"encoder.pointwise"}


def build_embedded():
    return build_small(input_size=SIDE).eval()


def build_mobile():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = TinyViTConfig(
            widths=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 2, 3, 4),
            out_channels=16, classes=3,
        )  # fmt: skip
        return build_mobile_sam(SIDE, config)


@pytest.fixture(params=["vit", "mobile", "embedded"])
def sam(request, make_tiny_sam):
    made = {
        "vit": make_tiny_sam,
        "mobile": build_mobile,
        "embedded": build_embedded,
    }[request.param]()
    return made.requires_grad_(False)


def all_targets(sam) -> LoraSettings:
    return LoraSettings(", ".join(matching_targets(sam)), rank=3, alpha=6.0)


def outputs(sam) -> list[torch.Tensor]:
    """Run all of the model through segment_anything's own modules."""
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = sam.image_encoder(pixels)
        points = torch.tensor([[[20.0, 30.0]]]), torch.ones(1, 1)
        sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
        masks, iou = sam.mask_decoder(
            image_embeddings=features,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    return [features, masks, iou]


def stir(sam) -> None:
    """Give B values, as training would."""
    generator = torch.Generator().manual_seed(2)
    for parameter in lora_parameters(sam):
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


def assert_same(found, expected, **tolerance) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def test_life_of_adapters(sam) -> None:
    keys, before = list(sam.state_dict()), outputs(sam)
    weights = copy.deepcopy(sam.state_dict())
    expected = set().union(*matching_targets(sam).values())
    names = add_lora(sam, all_targets(sam))
    assert set(names) == expected
    # nothing changes at first, to the bit
    assert_same(outputs(sam), before, rtol=0, atol=0)
    stir(sam)
    tuned = outputs(sam)
    for a, b in zip(tuned, before, strict=True):
        assert (a - b).abs().max() > 1e-3
    state = lora_state(sam)

    merged = copy.deepcopy(sam)
    merge_lora(merged)
    assert not has_lora(merged)
    assert list(merged.state_dict()) == keys
    assert_same(outputs(merged), tuned, rtol=1e-4, atol=1e-5)

    remove_lora(sam)
    assert list(sam.state_dict()) == keys
    for name, tensor in sam.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert_same(outputs(sam), before, rtol=0, atol=0)

    # the file is enough, alpha included
    assert load_lora(sam, state) == names
    assert_same(outputs(sam), tuned, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_encoder_sees_adapters(make_tiny_sam, dtype) -> None:
    sam = make_tiny_sam().requires_grad_(False)
    plane = np.random.default_rng(0).uniform(0, 255, (SIDE, SIDE, 3))
    plane = plane.astype(np.float32)
    add_lora(sam, all_targets(sam))
    plain = SamModel(sam, name="m", family="sam", dtype=dtype).encode(plane)
    stir(sam)
    model = SamModel(sam, name="m", family="sam", dtype=dtype)
    found = torch.from_numpy(model.encode(plane).features["image_embed"].copy())
    pixels = sam.preprocess(torch.from_numpy(plane).permute(2, 0, 1)[None])
    with torch.no_grad():
        expected = sam.image_encoder(pixels)[0]
    if dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    else:
        alike = torch.cosine_similarity(found, expected, dim=0)
        assert alike.min() > 0.99
    assert np.abs(plain.features["image_embed"] - found.numpy()).max() > 0.05
    # what was encoded without them is not taken for what they make
    assert model.encoder_digest != plain.encoder_digest


@pytest.mark.parametrize("family", ["vit", "mobile"])
def test_rows_of_queries_and_values_alone_change(family, make_tiny_sam) -> None:
    sam = make_tiny_sam() if family == "vit" else build_mobile()
    add_lora(sam, LoraSettings("encoder.q, encoder.v"))
    stir(sam)
    layer = next(m for m in sam.modules() if isinstance(m, LoraLayer))
    changed = (layer.weight != layer.base.weight).any(1)
    if family == "vit":
        assert changed.view(3, -1).all(1).tolist() == [True, False, True]
        assert not changed.view(3, -1)[1].any()
    else:
        name = next(n for n, m in sam.named_modules() if m is layer)
        heads = sam.get_submodule(name.rpartition(".")[0]).heads
        by_part = changed.view(heads, 3, -1).transpose(0, 1).flatten(1)
        assert by_part.all(1).tolist() == [True, False, True]
        assert not by_part[1].any()
    x = torch.randn(2, 5, layer.base.in_features)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_adapters_learn_and_nothing_else_does(make_tiny_sam) -> None:
    sam = make_tiny_sam().requires_grad_(False)
    settings = LoraSettings("encoder.q, decoder.mlp, iou_head", dropout=0.5)
    add_lora(sam, settings, generator=torch.Generator().manual_seed(0))
    learning = {id(p) for p in sam.parameters() if p.requires_grad}
    assert learning == {id(p) for p in lora_parameters(sam)}
    layer = sam.mask_decoder.iou_prediction_head.layers[0]
    x = torch.ones(1, layer.base.in_features)
    sam.train()
    layer(x).square().sum().backward()
    part = layer.lora["all"]
    assert part.b.grad.abs().sum() > 0
    part.b.data.fill_(1.0)
    assert not torch.equal(layer(x), layer(x))
    sam.eval()
    assert torch.equal(layer(x), layer(x))


def test_start_of_a_and_b(make_tiny_sam) -> None:
    sam = make_tiny_sam()
    add_lora(sam, LoraSettings("encoder.lin1", rank=2, alpha=8.0))
    part = sam.image_encoder.blocks[0].mlp.lin1.lora["all"]
    bound = 1 / part.a.shape[1] ** 0.5  # kaiming-uniform with a = sqrt(5)
    assert 0.8 * bound < part.a.abs().max() <= bound
    assert not part.b.any()
    assert part.scale == 4.0


def test_targets_that_match_nothing_are_refused(make_tiny_sam) -> None:
    with pytest.raises(SettingsError, match=r"out_proj.*encoder\.proj"):
        add_lora(make_tiny_sam(), LoraSettings("encoder.q, encoder.out_proj"))
    with pytest.raises(SettingsError, match="at least one"):
        LoraSettings(" , ")
    with pytest.raises(SettingsError, match=r"encoder\.pointwise; it has.*encoder\.q"):
        add_lora(make_tiny_sam(), LoraSettings("encoder.pointwise, encoder.q"))
    embedded = build_embedded()
    with pytest.raises(SettingsError, match=r"it has encoder\.pointwise, decoder\.q"):
        add_lora(embedded, LoraSettings("encoder.q"))
    assert not has_lora(embedded)
    assert "image_encoder.neck" in add_lora(embedded, LoraSettings())


def test_every_target_is_in_some_family(make_tiny_sam) -> None:
    models = make_tiny_sam(), build_mobile(), build_embedded()
    found = set().union(*(matching_targets(sam) for sam in models))
    assert found == set(LORA_TARGETS)
    assert set(LORA_TARGETS) - CONVOLUTIONAL == set(matching_targets(models[0]))


def test_adapters_twice_are_refused(make_tiny_sam) -> None:
    sam = make_tiny_sam()
    add_lora(sam, LoraSettings())
    with pytest.raises(SettingsError, match="adapters already"):
        add_lora(sam, LoraSettings())


def test_adapters_of_another_model_are_refused(make_tiny_sam) -> None:
    sam = make_tiny_sam()
    add_lora(sam, LoraSettings("encoder.q"))
    state = lora_state(sam)
    name = next(iter(state))

    for bad, words in (
        ({n: t for n, t in state.items() if n != name}, "no adapter with a, b"),
        ({}, "no adapters"),
        ({n.replace("blocks.0", "blocks.9"): t for n, t in state.items()}, "blocks.9"),
        ({n.replace(".q.", ".z."): t for n, t in state.items()}, "part 'z'"),
    ):
        fresh = make_tiny_sam()
        with pytest.raises(CheckpointError, match=words):
            load_lora(fresh, bad)
        assert not has_lora(fresh)
    with pytest.raises(CheckpointError, match="another size"):
        load_lora(make_tiny_sam(width=64), state)
    other = make_tiny_sam()
    add_lora(other, LoraSettings("encoder.q", rank=2))
    with pytest.raises(CheckpointError, match="same targets"):
        load_lora(other, state)
