"""The decoder beside that of segment_anything."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from napari_samseg.core.models.decoding import decode_objects
from napari_samseg.core.settings import LoraSettings
from napari_samseg.core.training.lora import add_lora, lora_parameters

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

N, GRID = 3, 4


@pytest.fixture
def prompted(tiny_sam: Sam) -> tuple[torch.Tensor, ...]:
    """Embedding, positions, and prompts of three objects, two of them alike."""
    torch.manual_seed(0)
    image = torch.randn(1, tiny_sam.mask_decoder.transformer_dim, GRID, GRID)
    points = torch.rand(N, 2, 2) * 64, torch.ones(N, 2)
    encoder = tiny_sam.prompt_encoder
    side = encoder.mask_input_size[0]
    with torch.no_grad():
        sparse, dense = encoder(
            points=points, boxes=None, masks=torch.randn(N, 1, side, side)
        )
        return image, encoder.get_dense_pe(), sparse, dense


def test_masks_are_those_of_segment_anything(tiny_sam: Sam, prompted) -> None:
    decoder = tiny_sam.mask_decoder
    for name, tensor in decoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(tensor)
    image, *others = prompted
    with torch.no_grad():
        expected = decoder.predict_masks(*prompted)
        for embeddings in (image, image.expand(N, -1, -1, -1)):
            found = decode_objects(decoder, embeddings, *others)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        for masks in (slice(0, 1), slice(1, None)):
            logits, ious = decode_objects(decoder, image, *others, masks=masks)
            torch.testing.assert_close(
                logits, expected[0][:, masks], rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(
                ious, expected[1][:, masks], rtol=1e-4, atol=1e-4
            )


def test_gradients_are_those_of_segment_anything(tiny_sam: Sam, prompted) -> None:
    gradients = []
    for decode in (type(tiny_sam.mask_decoder).predict_masks, decode_objects):
        decoder = copy.deepcopy(tiny_sam.mask_decoder).double().requires_grad_(True)
        logits, ious = decode(decoder, *(x.double() for x in prompted))
        (logits.square().mean() + ious.square().mean()).backward()
        gradients.append([p.grad for p in decoder.parameters()])
    for one, other in zip(*gradients, strict=True):
        # the bias of keys moves no softmax: what it had was rounding
        one = torch.zeros_like(other) if other is not None and one is None else one
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_adapters_in_the_decoder_count(tiny_sam: Sam, prompted) -> None:
    targets = "decoder.q, decoder.k, decoder.v, decoder.out"
    decoder = tiny_sam.mask_decoder
    with torch.no_grad():
        before, _ = decode_objects(decoder, *prompted)
        add_lora(tiny_sam, LoraSettings(targets=targets))
        for parameter in lora_parameters(tiny_sam):
            torch.nn.init.normal_(parameter, std=0.3)
        expected, _ = decoder.predict_masks(*prompted)
        found, _ = decode_objects(decoder, *prompted)
    assert float((expected - before).abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
