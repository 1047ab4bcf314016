"""Reading and writing layers; no viewer is needed for most of it."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_samseg.adapters import write_layers
from napari_samseg.adapters.prompt_layers import PromptLayers, is_own_layer
from napari_samseg.adapters.read_layers import (
    ImageView,
    canvas_to_data,
    choose_level,
    current_plane,
    label_on_plane,
    largest_label,
    world_to_canvas,
)
from napari_samseg.adapters.write_layers import (
    LayerLabels,
    check_editable,
    create_labels,
    show_classes,
    widen_labels,
)
from napari_samseg.core.annotation import Annotation
from napari_samseg.core.annotation_actions import ObjectClass
from napari_samseg.core.errors import LabelOverflowError, LayerError
from napari_samseg.core.painting import PlaneKey
from napari_samseg.core.planes import read_plane
from napari_samseg.core.prompts.from_geometry import Gesture
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.types import MaskPrediction

TRANSFORM = {
    "scale": (2.0, 0.5),
    "translate": (10.0, -3.0),
    "rotate": 30,
    "shear": [0.2],
    "affine": [[0.9, 0.1, 4], [-0.2, 1.1, 5], [0, 0, 1]],
}


def square(object_id, y, x, side=4, size=(20, 30)):
    """Predict a square of `side` pixels with its corner at (y, x)."""
    return MaskPrediction(
        np.array([object_id]),
        (np.ones((side, side), bool),),
        np.array([[y, x, y + side, x + side]]),
        size,
        np.ones(1, np.float32),
        np.zeros((1, 4, 4), np.float32),
    )


class TestReading:
    @pytest.mark.parametrize("transform", [{}, TRANSFORM])
    def test_a_canvas_position_is_found_on_the_plane(self, transform):
        layer = Image(np.zeros((20, 30)), **transform)
        viewer = ViewerModel()
        viewer.add_layer(layer)
        plane = current_plane(viewer.dims, layer)
        view = ImageView.of_layer(layer)
        world = layer.data_to_world((12.25, 7.5))
        point = view.data_to_plane(canvas_to_data(world, viewer.dims, layer), plane)
        np.testing.assert_allclose(point, (12.25, 7.5), atol=1e-6)

    def test_the_view_matrix_is_the_layers_transform(self):
        layer = Image(np.zeros((20, 30)), **TRANSFORM)
        matrix = ImageView.of_layer(layer).matrix
        for point in ((0, 0), (19, 3), (4.5, 29)):
            expected = layer.data_to_world(point)
            np.testing.assert_allclose((matrix @ (*point, 1))[:2], expected)

    @pytest.mark.parametrize(
        ("order", "axes"),
        [((0, 1, 2), (1, 2)), ((1, 0, 2), (0, 2)), ((1, 2, 0), (2, 0))],
    )
    def test_any_order_of_axes(self, order, axes):
        volume = np.arange(6 * 7 * 8).reshape(6, 7, 8)
        layer = Image(volume, scale=(3, 1, 1), translate=(5, 0, 2))
        viewer = ViewerModel()
        viewer.add_layer(layer)
        viewer.dims.order = order
        at = {0: 4, 1: 3, 2: 5}
        for axis in range(3):
            viewer.dims.set_current_step(axis, at[axis])
        plane = current_plane(viewer.dims, layer)
        (lead,) = set(range(3)) - set(axes)
        assert plane == PlaneKey((at[lead],), axes)
        settings = ImageSettings(normalisation="none")
        pixels = read_plane(
            ImageView.of_layer(layer).source, plane.index, settings, plane_axes=axes
        )
        expected = np.take(volume, at[lead], axis=lead)
        expected = expected.T if axes[0] > axes[1] else expected
        np.testing.assert_array_equal(pixels[..., 0], np.clip(expected, 0, 255))

    def test_a_plane_in_a_viewer_with_more_axes(self):
        viewer = ViewerModel()
        viewer.add_image(np.zeros((5, 6, 20, 30)))
        layer = viewer.add_image(np.zeros((20, 30)))
        assert current_plane(viewer.dims, layer) == PlaneKey((), (0, 1))

    def test_what_is_no_plane_says_so(self):
        viewer = ViewerModel()
        viewer.add_image(np.zeros((9, 20, 30)))
        layer = viewer.add_image(np.zeros((4, 20, 30)))
        viewer.dims.set_current_step(0, 8)
        with pytest.raises(LayerError, match=r"at 8 on axis 0, outside .* of length 4"):
            current_plane(viewer.dims, layer)
        viewer.dims.ndisplay = 3
        with pytest.raises(LayerError, match="from 3D to 2D"):
            current_plane(viewer.dims, layer)

    def test_units_of_the_viewer_are_converted(self):
        viewer = ViewerModel()
        viewer.add_image(np.zeros((20, 30)), units=("um", "um"))
        layer = viewer.add_image(
            np.zeros((20, 30)), units=("nm", "nm"), scale=(100, 100)
        )
        factor = (1 * viewer.dims.units[0]).to("nm").magnitude
        point = canvas_to_data((700 / factor, 1200 / factor), viewer.dims, layer)
        np.testing.assert_allclose(point, (7, 12))
        canvas = world_to_canvas(np.array([700.0, 1200.0]), viewer.dims, layer)
        np.testing.assert_allclose(canvas, (700 / factor, 1200 / factor))

    def test_levels_lie_on_each_other(self):
        levels = [np.zeros((64, 96)), np.zeros((16, 24))]
        layer = Image(levels, multiscale=True, **TRANSFORM)
        view = ImageView.of_layer(layer, 1)
        # a pixel of level 1 covers 4 x 4 of level 0: centre (1, 2) is (5.5, 9.5)
        point = view.data_to_plane(np.array([5.5, 9.5]), PlaneKey())
        np.testing.assert_allclose(point, (1, 2))
        expected = layer.data_to_world((5.5, 9.5))
        np.testing.assert_allclose((view.matrix @ (1, 2, 1))[:2], expected)
        with pytest.raises(LayerError, match="no resolution level 2"):
            ImageView.of_layer(layer, 2)

    def test_the_level_is_the_finest_that_is_not_huge(self):
        big = da.zeros((20_000, 20_000), chunks=5000)
        layer = Image([big, big[::2, ::2], big[::8, ::8]], multiscale=True)
        assert choose_level(layer) == 2
        assert choose_level(Image(np.zeros((30, 30)))) == 0

    def test_largest_id_of_labels(self):
        data = np.zeros((4, 20, 30), np.uint16)
        data[2, 3, 5] = 700
        assert largest_label(data) == 700
        assert largest_label(np.zeros((0, 3), int)) == 0


class TestLabelOnPlane:
    @staticmethod
    def pick(viewer, image, labels, point, level=0):
        view = ImageView.of_layer(image, level)
        plane = current_plane(viewer.dims, image, level)
        return label_on_plane(labels, image, view, plane, viewer.dims, point)

    @pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (1, 0, 2)])
    def test_labels_on_the_image_are_read_as_they_are(self, order):
        rng = np.random.default_rng(0)
        data = rng.integers(1, 4, (6, 7, 8))
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros(data.shape), scale=(3, 1, 2))
        labels = viewer.add_labels(data, scale=(3, 1, 2))
        viewer.dims.order = order
        for axis in range(3):
            viewer.dims.set_current_step(axis, 2 + axis)
        expected = np.take(data, 2 + order[0], axis=order[0])
        expected = expected.T if order[1] > order[2] else expected
        found = self.pick(viewer, image, labels, (1, 3))
        id_ = expected[1, 3]
        np.testing.assert_array_equal(found, np.where(expected == id_, id_, 0))

    @pytest.mark.parametrize("transform", [{}, TRANSFORM])
    def test_a_label_lies_where_the_viewer_shows_it(self, transform):
        data = np.zeros((60, 60), np.uint32)
        data[10:30, 12:40] = 7
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros((150, 140)), units=("um", "um"))
        labels = viewer.add_labels(data, units=("um", "um"), **transform)
        if not transform:
            labels.translate = (100, 90)
        world = labels.data_to_world((20, 20))
        found = self.pick(viewer, image, labels, world)
        # each pixel of the plane is looked up by itself
        for y, x in np.random.default_rng(0).integers(0, 140, (500, 2)):
            at = np.floor(np.array(labels.world_to_data((y, x))) + 0.5).astype(int)
            inside = (at >= 0).all() and (at < 60).all()
            assert found[y, x] == (data[tuple(at)] if inside else 0)
        assert not self.pick(viewer, image, labels, (-500, 3)).any()
        if not transform:
            assert not self.pick(viewer, image, labels, (20, 20)).any()

    def test_units_are_converted(self):
        data = np.zeros((40, 40), np.uint32)
        data[5:15, 5:15] = 3
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros((40, 40)), units=("um",) * 2)
        labels = viewer.add_labels(data, units=("nm",) * 2, scale=(1000, 1000))
        np.testing.assert_array_equal(self.pick(viewer, image, labels, (9, 9)), data)

    def test_full_labels_on_a_coarse_level(self):
        fine = np.zeros((64, 96), np.uint8)
        data = np.zeros((64, 96), np.uint32)
        data[32:48, 40:60] = 5
        viewer = ViewerModel()
        image = viewer.add_image([fine, fine[::4, ::4]], multiscale=True)
        labels = viewer.add_labels(data)
        found = self.pick(viewer, image, labels, (9, 12), level=1)
        expected = np.zeros((16, 24))
        expected[8:12, 10:15] = 5
        np.testing.assert_array_equal(found, expected)

    def test_labels_with_other_axes(self):
        data = np.zeros((4, 20, 30), np.uint16)
        data[2, 3:9, 5:9] = 700
        viewer = ViewerModel()
        flat = viewer.add_image(np.zeros((20, 30)))
        volume = viewer.add_image(np.zeros((4, 20, 30)))
        of_volume, of_plane = viewer.add_labels(data), viewer.add_labels(data[2])
        viewer.dims.set_current_step(0, 2)
        for image, labels in ((flat, of_volume), (volume, of_plane)):
            found = self.pick(viewer, image, labels, (4, 6))
            np.testing.assert_array_equal(found, data[2])
        viewer.dims.set_current_step(0, 1)
        assert not self.pick(viewer, flat, of_volume, (4, 6)).any()
        viewer.dims.order = (2, 1, 0)
        with pytest.raises(LayerError, match="no extent along the axes on view"):
            self.pick(viewer, volume, of_plane, (3, 3))


class TestTarget:
    @pytest.mark.parametrize("kind", ["numpy", "zarr"])
    @pytest.mark.parametrize("axes", [(1, 2), (2, 0)])
    def test_commits_and_strokes_undo_in_the_order_they_were_made(self, kind, axes):
        data = np.zeros((30, 30, 30), np.uint32)
        if kind == "zarr":
            data = zarr.array(data, chunks=(1, 16, 16))
        layer = Labels(data)
        target = LayerLabels(layer)
        annotation = Annotation()
        layer.events.paint.connect(
            lambda event: annotation.record_stroke(
                target, target.read_stroke(event.value)
            )
        )
        plane = PlaneKey((0,), axes)
        states = [np.array(layer.data)]
        annotation.commit(target, plane, square(1, 2, 2))
        states.append(np.array(layer.data))
        layer.data_setitem((np.array([9]), np.array([9]), np.array([9])), 5)
        states.append(np.array(layer.data))
        annotation.commit(target, plane, square(2, 4, 4), overlap="replace")
        states.append(np.array(layer.data))
        for state in states[-2::-1]:
            annotation.undo()
            np.testing.assert_array_equal(np.array(layer.data), state)
        for state in states[1:]:
            annotation.redo()
            np.testing.assert_array_equal(np.array(layer.data), state)

    def test_commits_undo_beyond_the_hundred_steps_of_napari(self):
        layer = Labels(np.zeros((20, 30), np.uint32))
        target, annotation = LayerLabels(layer), Annotation()
        for i in range(130):
            annotation.commit(
                target, PlaneKey(), square(i + 1, i % 15, i % 25), overlap="replace"
            )
        final = layer.data.copy()
        while annotation.can_undo:
            annotation.undo()
        assert not layer.data.any()
        for _ in range(2):
            annotation.redo()
        np.testing.assert_array_equal(np.unique(layer.data), [0, 1, 2])
        while annotation.can_redo:
            annotation.redo()
        np.testing.assert_array_equal(layer.data, final)

    @pytest.mark.parametrize("kind", ["numpy", "zarr"])
    @pytest.mark.parametrize(
        "draw",
        [
            lambda layer: layer.paint((5, 5), 7),
            lambda layer: layer.fill((5, 5), 7),
            lambda layer: layer.paint_polygon([(2, 2), (2, 12), (9, 12)], 7),
            lambda layer: layer.data_setitem((np.array([4, 4]), np.array([4, 6])), 7),
        ],
    )
    def test_whatever_a_person_draws_with_is_undone(self, kind, draw):
        data = np.zeros((20, 30), np.uint8)
        data[3:6, 3:6] = 2
        layer = Labels(zarr.array(data, chunks=(8, 8)) if kind == "zarr" else data)
        layer.brush_size = 5
        before = np.array(layer.data)
        target, annotation = LayerLabels(layer), Annotation()
        layer.events.paint.connect(
            lambda event: annotation.record_stroke(
                target, target.read_stroke(event.value)
            )
        )
        draw(layer)
        after = np.array(layer.data)
        assert (after == 7).any()
        annotation.undo()
        np.testing.assert_array_equal(np.array(layer.data), before)
        annotation.redo()
        np.testing.assert_array_equal(np.array(layer.data), after)
        assert annotation.next_id == 8

    @pytest.mark.parametrize("merged", [1 << 20, 1])
    def test_a_drag_that_crosses_itself_is_one_step(self, merged, monkeypatch):
        monkeypatch.setattr(write_layers, "MERGED_VALUES", merged)
        layer = Labels(np.zeros((20, 30), np.uint32))
        layer.data[3:9, 3:9] = 4
        before = layer.data.copy()
        target, annotation = LayerLabels(layer), Annotation()
        layer.events.paint.connect(
            lambda event: annotation.record_stroke(
                target, target.read_stroke(event.value)
            )
        )
        with layer.block_history():
            for (y, x), label in (((5, 5), 7), ((5, 8), 8), ((5, 6), 9), ((6, 6), 0)):
                layer.brush_size = 4
                layer.paint((y, x), label)
        after = layer.data.copy()
        assert len(annotation.actions) == 1
        annotation.undo()
        np.testing.assert_array_equal(layer.data, before)
        annotation.redo()
        np.testing.assert_array_equal(layer.data, after)

    def test_undo_of_napari_cannot_tear_holes_into_objects(self):
        layer = Labels(np.zeros((20, 30), np.uint32))
        layer.mode = "paint"
        layer.paint((3, 3), 9)
        target, annotation = LayerLabels(layer), Annotation()
        annotation.commit(target, PlaneKey(), square(1, 2, 2), overlap="replace")
        layer.undo()
        assert np.count_nonzero(layer.data == 1) == 16
        assert layer.mode == "paint"

    def test_undo_leaves_pixels_alone_that_somebody_else_changed(self):
        layer = Labels(np.zeros((20, 30), np.uint32))
        target, annotation = LayerLabels(layer), Annotation()
        layer.data[3, 3] = 77
        annotation.commit(target, PlaneKey(), square(1, 2, 2))
        assert layer.data[3, 3] == 77
        layer.data[4, 4] = 78
        annotation.undo()
        assert layer.data[3, 3] == 77
        assert layer.data[4, 4] == 78
        assert np.count_nonzero(layer.data) == 2

    def test_too_small_a_data_type_has_a_way_out(self, tmp_path):
        layer = Labels(np.zeros((20, 30), np.uint8))
        target, annotation = LayerLabels(layer), Annotation()
        annotation.commit(target, PlaneKey(), square(255, 2, 2))
        with pytest.raises(LabelOverflowError, match="convert them to uint32"):
            annotation.commit(target, PlaneKey(), square(256, 12, 2))
        widen_labels(target, tmp_path)
        annotation.commit(target, PlaneKey(), square(256, 12, 2))
        assert layer.data[12, 2] == 256
        annotation.undo()
        annotation.undo()
        assert not layer.data.any()

    @pytest.mark.parametrize("place", ["beside", "in memory"])
    def test_labels_on_disk_are_widened_on_disk(self, tmp_path, place):
        path = tmp_path / "labels.zarr"
        store = path if place == "beside" else zarr.storage.MemoryStore()
        data = zarr.create_array(
            store=store, shape=(20, 30), dtype="uint8", chunks=(8, 8)
        )
        data[3, 3], data[19, 29] = 7, 255
        folder = tmp_path / "cache"
        layer = Labels(data)
        target, annotation = LayerLabels(layer), Annotation()
        widen_labels(target, folder)
        annotation.commit(target, PlaneKey(), square(256, 12, 2))
        (copy,) = (tmp_path if place == "beside" else folder).glob("*uint32*.zarr")
        on_disk = zarr.open_array(copy, mode="r")
        assert on_disk.dtype == np.uint32
        assert on_disk.chunks == (8, 8)
        assert (on_disk[3, 3], on_disk[19, 29], on_disk[12, 2]) == (7, 255, 256)
        assert data.dtype == np.uint8
        assert isinstance(layer.data, zarr.Array)

    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            (Labels(da.zeros((20, 30), dtype=np.uint32)), "dask array"),
            (
                Labels(
                    [np.zeros((20, 30), np.uint32), np.zeros((10, 15), np.uint32)],
                    multiscale=True,
                ),
                "multiscale",
            ),
        ],
    )
    def test_labels_that_cannot_be_edited(self, layer, message):
        with pytest.raises(LayerError, match=f"{message}.*let a new Labels layer"):
            LayerLabels(layer)

    def test_read_only_labels(self):
        data = np.zeros((20, 30), np.uint32)
        data.flags.writeable = False
        with pytest.raises(LayerError, match="read-only"):
            check_editable(Labels(data))

    def test_labels_of_another_shape(self):
        target = LayerLabels(Labels(np.zeros((10, 10), np.uint32)))
        with pytest.raises(LayerError, match="does not cover the image"):
            Annotation().commit(target, PlaneKey(), square(1, 12, 2))


class TestCreating:
    @pytest.mark.parametrize("level", [0, 1])
    def test_new_labels_lie_on_the_image(self, tmp_path, level):
        levels = [np.zeros((40, 64)), np.zeros((10, 16))]
        viewer = ViewerModel()
        image = viewer.add_image(
            levels,
            multiscale=True,
            units=("um", "um"),
            axis_labels=("row", "column"),
            **TRANSFORM,
        )
        view = ImageView.of_layer(image, level)
        labels = create_labels(viewer, image, view, tmp_path)
        assert labels.data.shape == levels[level].shape
        assert labels.data.dtype == np.uint32
        assert labels.units == image.units
        assert labels.axis_labels == image.axis_labels
        for point in ((0, 0), (3, 9.5)):
            expected = (view.matrix @ (*point, 1))[:2]
            np.testing.assert_allclose(labels.data_to_world(point), expected)
        if level == 0:
            np.testing.assert_allclose(labels.rotate, image.rotate)
            np.testing.assert_allclose(labels.scale, image.scale)
            np.testing.assert_allclose(labels.translate, image.translate)

    def test_large_labels_lie_on_disk_and_take_commits(self, tmp_path, monkeypatch):
        monkeypatch.setattr(write_layers, "DENSE_BYTES", 1000)
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros((3, 60, 70)), name="big / image")
        labels = create_labels(viewer, image, ImageView.of_layer(image), tmp_path)
        assert isinstance(labels.data, zarr.Array)
        (path,) = tmp_path.iterdir()
        annotation = Annotation()
        plane = PlaneKey((1,), (1, 2))
        annotation.commit(LayerLabels(labels), plane, square(1, 5, 6, size=(60, 70)))
        on_disk = zarr.open_array(path, mode="r")
        assert np.count_nonzero(on_disk[1] == 1) == 16
        assert not on_disk[0].any()

    def test_rgb_images_get_labels_without_channels(self, tmp_path):
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros((20, 30, 3), np.uint8), rgb=True)
        labels = create_labels(viewer, image, ImageView.of_layer(image), tmp_path)
        assert labels.data.shape == (20, 30)

    def test_classes_leave_a_persons_features_alone(self):
        layer = Labels(np.zeros((20, 30), np.uint32))
        layer.features = {"index": [0, 7, 8], "size": [0.0, 12.0, 13.0]}
        show_classes(layer, [ObjectClass(2, "axon", "#ff0000")], {7: 2, 9: 2})
        show_classes(layer, [ObjectClass(2, "axon", "#ff0000")], {7: 2})
        table = layer.features.set_index("index")
        assert table.loc[[7, 8], "size"].tolist() == [12.0, 13.0]
        assert table.loc[7, "class"] == "axon"

    def test_classes_stand_in_the_features(self):
        layer = Labels(np.zeros((20, 30), np.uint32))
        show_classes(layer, [ObjectClass(2, "axon", "#ff0000")], {7: 2})
        assert layer.features["class"].tolist() == ["background", "axon"]
        assert layer.features["index"].tolist() == [0, 7]


class TestPromptLayers:
    @pytest.mark.parametrize("axes", [(1, 2), (0, 2), (2, 0)])
    def test_preview_and_prompts_lie_on_their_plane(self, axes):
        viewer = ViewerModel()
        image = viewer.add_image(
            np.zeros((20, 21, 22)), scale=(2, 1, 0.5), translate=(1, 2, 3)
        )
        view, layers = ImageView.of_layer(image), PromptLayers(viewer, image)
        plane = PlaneKey((5,), axes)
        rgba = np.full((3, 4, 4), 200, np.uint8)
        layers.show_preview(view, plane, (rgba, (6, 7, 9, 11)))
        (preview,) = layers.layers
        (lead,) = set(range(3)) - set(axes)
        corner = np.zeros(3)
        corner[[lead, *axes]] = (5, 6, 7)
        np.testing.assert_allclose(
            preview.data_to_world((0, 0, 0)), image.data_to_world(corner)
        )
        gestures = {
            1: [
                Gesture("click", np.array([[6.0, 7.0]])),
                Gesture("click", np.array([[1.0, 2.0]]), positive=False),
                Gesture("box", np.array([[1.5, 2.5], [4.5, 5.5]])),
            ]
        }
        layers.show_prompts(view, plane, gestures, 3)
        points = layers.points
        np.testing.assert_allclose(
            points.data_to_world(points.data[0]), image.data_to_world(corner)
        )
        green, red = points.face_color[:, :3]
        assert green.argmax() == 1
        assert red.argmax() == 0
        assert all(is_own_layer(layer) for layer in layers.layers)
        assert not is_own_layer(image)
        layers.show_prompts(view, plane, {}, 3)
        assert len(points.data) == 0
        layers.remove()
        assert list(viewer.layers) == [image]

    def test_the_viewer_keeps_its_units_steps_and_axis_labels(self):
        viewer = ViewerModel()
        viewer.add_image(np.zeros((8, 20, 22)), scale=(0.05, 1, 1), units=("um",) * 3)
        image = viewer.add_image(
            np.zeros((8, 20, 22)),
            scale=(50, 10, 10),
            units=("nm",) * 3,
            axis_labels=("z", "y", "x"),
        )
        before = viewer.dims.units, viewer.dims.range, viewer.dims.axis_labels
        assert before[0] is not None
        view, layers = ImageView.of_layer(image), PromptLayers(viewer, image)
        layers.activate()
        assert (
            viewer.dims.units,
            viewer.dims.range,
            viewer.dims.axis_labels,
        ) == before
        plane = PlaneKey((5,), (1, 2))
        box = Gesture("box", np.array([[1.5, 2.5], [4.5, 5.5]]))
        layers.show_prompts(view, plane, {1: [box]}, 3)
        layers.show_preview(
            view, plane, (np.full((3, 4, 4), 200, np.uint8), (6, 7, 9, 11))
        )
        assert len(layers.layers) == 3
        assert (
            viewer.dims.units,
            viewer.dims.range,
            viewer.dims.axis_labels,
        ) == before
        image.units = ("um",) * 3
        layers.show_prompts(view, plane, {1: [box]}, 3)
        assert all(layer.units == image.units for layer in layers.layers)

    def test_outlines_show_the_prompts_after_any_change(self):
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros((5, 50, 60)))
        view, layers = ImageView.of_layer(image), PromptLayers(viewer, image)
        square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]])
        drawn = [
            Gesture("box", square[[0, 2]] + 1),
            Gesture("lasso", square + 2, positive=False),
            Gesture("scribble", square + 3),
            Gesture("click", square[:2]),
            Gesture("box", square[[0, 2]] + 9),
        ]

        def check(z, prompts):
            layers.show_prompts(view, PlaneKey((z,), (1, 2)), prompts, 3)
            gestures = [g for of_object in prompts.values() for g in of_object]
            lines = [g for g in gestures if g.kind != "click"]
            shapes = next(la for la in layers.layers if "outlines" in la.name)
            kinds = {"box": "rectangle", "lasso": "polygon", "scribble": "path"}
            assert shapes.shape_type == [kinds[g.kind] for g in lines]
            for vertices, color, gesture in zip(
                shapes.data, shapes.edge_color, lines, strict=True
            ):
                assert (vertices[:, 0] == z).all()
                for axis in (0, 1):
                    found, given = vertices[:, axis + 1], gesture.vertices_yx[:, axis]
                    assert (found.min(), found.max()) == (given.min(), given.max())
                assert color[:3].argmax() == (1 if gesture.positive else 0)
            clicks = [g.vertices_yx for g in gestures if g.kind == "click"]
            expected = np.concatenate([np.empty((0, 2)), *clicks])
            np.testing.assert_array_equal(layers.points.data[:, 1:], expected)

        check(1, {1: drawn[:1]})
        check(1, {1: drawn[:2]})
        layers.show_rubber_band(view, PlaneKey((1,), (1, 2)), drawn[4])
        check(1, {1: drawn[:2], 2: drawn[2:]})
        layers.show_rubber_band(view, PlaneKey((1,), (1, 2)), drawn[4])
        layers.show_rubber_band(view, PlaneKey((1,), (1, 2)), None)
        check(1, {1: drawn[:1], 2: drawn[2:]})
        check(2, {1: drawn[:1], 2: drawn[2:]})
        layers.points.data = layers.points.data[:1]
        next(la for la in layers.layers if "outlines" in la.name).data = []
        check(2, {1: drawn[:1], 2: drawn[2:]})
        check(2, {2: drawn[2:3]})
        check(2, {})

    def test_one_more_box_is_added_to_those_on_show(self):
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros((200, 200)))
        view, layers = ImageView.of_layer(image), PromptLayers(viewer, image)
        boxes = [np.array([[i, i], [i + 9, i + 9]], float) for i in range(60)]
        prompts = {i + 1: [Gesture("box", box)] for i, box in enumerate(boxes)}
        events = []
        first = dict(list(prompts.items())[:59])
        layers.show_prompts(view, PlaneKey(), first, 3)
        shapes = next(la for la in layers.layers if "outlines" in la.name)
        shapes.events.data.connect(events.append)
        layers.show_prompts(view, PlaneKey(), prompts, 3)
        # napari announces a change before and after
        assert len(events) == 2
        layers.show_prompts(view, PlaneKey(), prompts, 3)
        assert len(events) == 2
        assert len(shapes.data) == 60

    def test_a_deleted_layer_is_made_again(self):
        viewer = ViewerModel()
        image = viewer.add_image(np.zeros((20, 22)))
        layers = PromptLayers(viewer, image)
        viewer.layers.remove(layers.points)
        assert layers.points in viewer.layers
