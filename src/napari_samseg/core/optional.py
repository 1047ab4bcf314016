"""Libraries that not everybody has: imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from napari_samseg.core.errors import MissingDependencyError

__all__ = ["import_optional", "is_installed"]


def is_installed(module: str) -> bool:
    """Tell whether a module without dots is installed, without importing it."""
    try:
        found = find_spec(module)
    except ValueError:  # something that was put in its place
        return False
    # a folder of its name, such as that of its runs, is no library
    return found is not None and found.origin is not None


def import_optional(module: str, package: str, need: str, otherwise: str = "") -> Any:
    """Import a module, or say how to get it.

    Parameters
    ----------
    module : str
        As in an import statement.
    package : str
        What pip installs it by: an extra of ours, or a package.
    need : str
        What cannot be done without, and by which library: the start of the message.
    otherwise : str
        What to do without it: the end of the message.

    Returns
    -------
    module

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        instead = f", or {otherwise}" if otherwise else ""
        raise MissingDependencyError(
            f"{need}, which is not installed: pip install '{package}'{instead}"
        ) from error
