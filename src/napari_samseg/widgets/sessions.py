"""The sessions that are open: one for each viewer and image layer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from napari_samseg.adapters.read_layers import unwrap
from napari_samseg.core.settings import ImageSettings, ModelSettings, TileSettings
from napari_samseg.widgets.session import Session

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

    from napari_samseg.core.models.protocol import PromptableModel

__all__ = ["SESSIONS", "open_session", "session_of"]

# By the ids of viewer and image, which no other objects have while the session
# lives: it holds both.
SESSIONS: WeakValueDictionary[tuple[int, int], Session] = WeakValueDictionary()


def open_session(
    viewer: Viewer,
    image_layer: Image,
    model: str | os.PathLike[str] | PromptableModel = "default",
    *,
    device: str = "auto",
    settings: ImageSettings | None = None,
    tiles: TileSettings | None = None,
) -> Session:
    """Open the session of an image layer, the one that is open if there is one.

    Parameters
    ----------
    viewer : napari.Viewer
    image_layer : napari.layers.Image
        Any image: 2D, any plane of 3D or time, RGB, multiscale; any transform.
    model : str, path or PromptableModel
        Name in the zoo, path of a checkpoint, or a model already loaded.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps"; not used for a loaded model.
    settings : ImageSettings, optional
        Contrast, channels and resolution level.
    tiles : TileSettings, optional
        How planes larger than the model's input are cut.

    Returns
    -------
    Session
        Encodes the plane on view in the background.

    Raises
    ------
    LayerError
        If the layer is not an image in this viewer.
    InvalidImageError
        If it cannot be read as planes.
    """
    session = session_of(viewer, image_layer)
    if settings is not None:
        session.set_image_settings(settings)
    if tiles is not None:
        session.set_tile_settings(tiles)
    if isinstance(model, str | os.PathLike):
        session.set_model(ModelSettings(model=os.fspath(model), device=device))
    else:
        session.use_model(model)
    session.hold(session)
    return session


def session_of(viewer: Viewer, image: Image) -> Session:
    """Return the session of an image layer in a viewer, new if there is none."""
    viewer, image = unwrap(viewer), unwrap(image)
    key = id(viewer), id(image)
    session = SESSIONS.get(key)
    if session is None or not session.is_open:
        session = SESSIONS[key] = Session(viewer, image)
    return session
