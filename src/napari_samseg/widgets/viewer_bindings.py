"""Mouse and keys of a viewer, passed on to the session that they are meant for.

Several sessions can draw in one viewer. napari keeps a single callback for a
key, so sessions that bound keys themselves would unbind each other's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from napari import Viewer

    from napari_samseg.widgets.canvas_tools import CanvasTools

__all__ = ["ViewerBindings"]

# Kept alive by the tools that use them. They hold the viewer, so that no other
# object has its id while they are here.
_BINDINGS: WeakValueDictionary[int, ViewerBindings] = WeakValueDictionary()


@dataclass(eq=False)
class _Owner:
    """A viewer or layer whose keys are bound, and who wants them."""

    provider: Any
    claimants: list[CanvasTools] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)


class ViewerBindings:
    """Binds mouse and keys once for all sessions in a viewer.

    What a person does goes to the session whose image or prompts are active,
    else to the one taken up last.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._tools: list[CanvasTools] = []
        self._owners: list[_Owner] = []

    @classmethod
    def of(cls, viewer: Viewer) -> ViewerBindings:
        """Return the bindings of a viewer, new if there are none."""
        bindings = _BINDINGS.get(id(viewer))
        if bindings is None:
            bindings = _BINDINGS[id(viewer)] = cls(viewer)
        return bindings

    def take_up(self, tools: CanvasTools) -> None:
        """Pass mouse events on to tools, before all others where none is meant."""
        if not self._tools:
            self._viewer.mouse_drag_callbacks.append(self._on_drag)
            self._viewer.mouse_move_callbacks.append(self._on_move)
        for claimants in [self._tools, *(owner.claimants for owner in self._owners)]:
            if tools in claimants:
                claimants.remove(tools)
                claimants.append(tools)
        if tools not in self._tools:
            self._tools.append(tools)

    def claim_keys(
        self, provider: Any, keys: Iterable[tuple[str, str]], tools: CanvasTools
    ) -> None:
        """Let keys of a viewer or layer call methods of tools."""
        owner = self._owner(provider)
        if tools not in owner.claimants:
            owner.claimants.append(tools)
        for key, method in keys:
            if key not in owner.before:
                owner.before[key] = self._bind(owner, key, method)

    def give_back(self, tools: CanvasTools) -> None:
        """Forget tools; what no others use is as it was before."""
        if tools in self._tools:
            self._tools.remove(tools)
        if not self._tools:
            for callbacks, callback in (
                (self._viewer.mouse_drag_callbacks, self._on_drag),
                (self._viewer.mouse_move_callbacks, self._on_move),
            ):
                if callback in callbacks:
                    callbacks.remove(callback)
        for owner in list(self._owners):
            if tools in owner.claimants:
                owner.claimants.remove(tools)
            if not owner.claimants:
                self._owners.remove(owner)
                for key, before in owner.before.items():
                    owner.provider.bind_key(key, before, overwrite=True)

    def _owner(self, provider: Any) -> _Owner:
        for owner in self._owners:
            if owner.provider is provider:
                return owner
        self._owners.append(_Owner(provider))
        return self._owners[-1]

    def _bind(self, owner: _Owner, key: str, method: str) -> Any:
        def press(_: Any) -> None:
            getattr(self._meant(owner.claimants), method)()

        return owner.provider.bind_key(key, press, overwrite=True)

    def _meant(self, claimants: list[CanvasTools]) -> CanvasTools:
        active = self._viewer.layers.selection.active
        for tools in reversed(claimants):
            if active is not None and tools.has_layer(active):
                return tools
        return claimants[-1]

    def _on_drag(self, viewer: Any, event: Any) -> Any:
        return self._meant(self._tools).on_drag(event)

    def _on_move(self, viewer: Any, event: Any) -> None:
        self._meant(self._tools).on_move(event)
