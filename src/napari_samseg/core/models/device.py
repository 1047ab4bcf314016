"""Where a model computes, and in which precision."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from threading import Lock

import torch

from napari_samseg.core.errors import DeviceError, SettingsError

__all__ = [
    "available_devices",
    "choose_device",
    "choose_dtype",
    "device_name",
    "full_products",
]

PRECISIONS = {
    "exact": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def available_devices() -> list[str]:
    """Return the names of the devices of this machine, the best first."""
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called `name`, the best one there is for ``"auto"``.

    Raises
    ------
    DeviceError
        If this machine has no such device.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in available:
        raise DeviceError(
            f"device {name!r} is not on this machine, which has: "
            f"{', '.join(available)}; choose one of these or 'auto'"
        )
    return torch.device(wanted)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the data type of the encoder's matrix products.

    ``"exact"`` is float32 everywhere, which agrees with `segment_anything` to 1e-4.
    ``"fast"`` is bfloat16 where the hardware multiplies it natively (CUDA from
    compute capability 8, processors with AMX or AVX512-BF16) and float32 elsewhere:
    where bfloat16 is emulated it is a hundred times slower.

    Raises
    ------
    SettingsError
        If `precision` is not one of the choices.
    """
    if precision == "fast":
        return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
    if precision not in PRECISIONS:
        raise SettingsError(
            f"precision {precision!r} is unknown: choose 'fast', "
            + ", ".join(repr(name) for name in PRECISIONS)
        )
    return PRECISIONS[precision]


class _FullProducts:
    """Switches of the whole program, set by the first who enters, reset by the last.

    Threads that encode at the same time would otherwise switch back and forth under
    each other.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before: tuple[str, bool] = ("highest", False)

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = (
                    torch.get_float32_matmul_precision(),
                    torch.backends.cudnn.allow_tf32,
                )
                torch.set_float32_matmul_precision("highest")
                torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                matrices, convolutions = self._before
                torch.set_float32_matmul_precision(matrices)
                torch.backends.cudnn.allow_tf32 = convolutions


_FULL_PRODUCTS = _FullProducts()


def full_products(dtype: torch.dtype) -> AbstractContextManager[None]:
    """Keep products of float32 in float32 for a while, whatever was allowed before.

    cuDNN convolves float32 in TF32 unless told otherwise, and a program may allow as
    much for matrices: ten bits of mantissa, which are not exact. Other types of
    `dtype` are left as they are.
    """
    return _FULL_PRODUCTS if dtype == torch.float32 else nullcontext()


def device_name(device: torch.device) -> str:
    """Return what tells how fast a device is: a GPU's model, a processor's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # a home folder may be shared by machines, so the machine's name stands in it
    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{platform.node()} {device.type} {capability} {threads} threads"


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Public wrappers do not exist; older releases lack some of these.
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, name, bool)() for name in checks)
    return False
