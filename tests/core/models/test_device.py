from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_samseg.core.errors import DeviceError, SettingsError
from napari_samseg.core.models.device import (
    available_devices,
    choose_device,
    choose_dtype,
    full_products,
)
from napari_samseg.core.models.sam import SamModel

CPU = torch.device("cpu")


def test_the_cpu_is_always_there_and_comes_last():
    assert available_devices()[-1] == "cpu"
    assert choose_device("cpu") == CPU


def test_auto_takes_the_best_there_is():
    assert choose_device() == torch.device(available_devices()[0])


@pytest.mark.parametrize("name", ["cuda:64", "mps:3", "tpu", ""])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name):
    with pytest.raises(DeviceError, match=r"not on this machine.*cpu"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none():
    with pytest.raises(DeviceError, match="'cuda' is not on this machine"):
        choose_device("cuda")


def test_fast_follows_the_processor_and_exact_does_not(monkeypatch):
    for native, expected in [(True, torch.bfloat16), (False, torch.float32)]:
        for check in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            monkeypatch.setattr(torch.cpu, check, lambda: native, raising=False)  # noqa: B023 - called in this turn
        assert choose_dtype("fast", CPU) == expected
        assert choose_dtype("exact", CPU) == torch.float32


def test_precision_by_name():
    assert choose_dtype("float16", CPU) == torch.float16
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    for name in ("int8", "auto", "float32"):
        with pytest.raises(
            SettingsError, match=f"'{name}' is unknown: choose 'fast', 'exact'"
        ):
            choose_dtype(name, CPU)


@pytest.fixture
def tf32_allowed():
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    cudnn.allow_tf32 = before[1]


@pytest.mark.usefixtures("tf32_allowed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_stays_float32_while_a_model_encodes(dtype, tiny_sam):
    def allowed():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    seen = []
    tiny_sam.image_encoder.patch_embed.register_forward_hook(
        lambda *call: seen.append(allowed())
    )
    model = SamModel(tiny_sam, name="tiny vit", family="sam", dtype=dtype)
    steps = model.encode_steps(np.zeros((8, 8, 3), np.float32))
    next(steps)
    lowered = ("high", True)
    assert seen == [("highest", False) if dtype == torch.float32 else lowered]
    # what runs while the model waits is not touched, nor what runs after an error
    assert allowed() == lowered
    with pytest.raises(ZeroDivisionError), full_products(dtype):
        raise ZeroDivisionError
    assert allowed() == lowered
