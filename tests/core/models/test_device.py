from __future__ import annotations

import pytest
import torch

from napari_samseg.core.errors import DeviceError, SettingsError
from napari_samseg.core.models.device import (
    available_devices,
    choose_device,
    choose_dtype,
)

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


def test_auto_precision_follows_the_processor(monkeypatch):
    for native, expected in [(True, torch.bfloat16), (False, torch.float32)]:
        for check in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            monkeypatch.setattr(torch.cpu, check, lambda: native, raising=False)  # noqa: B023 - called in this turn
        assert choose_dtype("auto", CPU) == expected


def test_precision_by_name():
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(SettingsError, match=r"'int8' is unknown.*'float32'"):
        choose_dtype("int8", CPU)
