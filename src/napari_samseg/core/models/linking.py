"""Keeps two copies of LLVM apart that would otherwise crash the process.

torchvision imports triton, whose library contains LLVM. A window drawn without
a graphics card (remote desktops, virtual machines, Xvfb), and Mesa's driver for
AMD cards, have loaded another LLVM by then; the dynamic linker mixes the two and
the process dies in triton's first call. Bound deeply, triton uses its own.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

__all__ = ["link_triton_apart"]


def link_triton_apart() -> None:
    """Import triton with its own LLVM if another one is loaded; else do nothing."""
    if "triton" in sys.modules or not sys.platform.startswith("linux"):
        return
    if "libLLVM" not in Path("/proc/self/maps").read_text(encoding="utf-8"):
        return
    if importlib.util.find_spec("triton") is None:
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        importlib.import_module("triton")
    finally:
        sys.setdlopenflags(flags)
