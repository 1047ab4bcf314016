"""Show the results of the demo in napari."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_samseg.core.demo import DemoReport

__all__ = ["add_demo_layers", "show_demo"]


def show_demo(report: DemoReport) -> None:
    """Open napari with the results of the demo, until the window is closed."""
    import napari

    viewer = napari.Viewer(title="napari-samseg demo")
    add_demo_layers(viewer, report)
    napari.run()


def add_demo_layers(viewer: ViewerModel, report: DemoReport) -> None:
    """Add each image of the demo with its labels; only the first is visible."""
    for i, result in enumerate(report.results):
        rgb = result.image.ndim == 3
        viewer.add_image(result.image, name=result.name, rgb=rgb, visible=i == 0)
        viewer.add_labels(result.labels, name=f"{result.name} labels", visible=i == 0)
