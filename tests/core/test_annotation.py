from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk

from napari_samseg.core.annotation import Annotation
from napari_samseg.core.annotation_actions import Commit, ObjectClass
from napari_samseg.core.annotation_file import (
    AnnotationHeader,
    Autosave,
    read_annotation,
    write_annotation,
)
from napari_samseg.core.annotation_replay import replay_annotation
from napari_samseg.core.deltas import DeltaStore, PixelChange
from napari_samseg.core.errors import (
    InvalidPromptError,
    LabelOverflowError,
    MissingFileError,
    SettingsError,
)
from napari_samseg.core.painting import ArrayLabels, PlaneKey, overlapped_labels
from napari_samseg.core.prompts.from_geometry import Gesture, label_gesture
from napari_samseg.core.settings import ImageSettings
from napari_samseg.core.types import MaskPrediction

SIZE = (40, 50)
PLANE = PlaneKey()


def click(y, x, positive=True):
    return Gesture("click", np.array([[y, x]], float), positive)


def predict_disks(plane, prompts):
    """Answer like a model would: a disk of radius 6 around each object's click."""
    ids, crops, boxes = [], [], []
    for object_id, gestures in prompts.items():
        mask = np.zeros(SIZE, bool)
        mask[disk(gestures[-1].vertices_yx[0], 6, shape=SIZE)] = True
        rows, columns = np.nonzero(mask)
        box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        ids.append(object_id)
        boxes.append(box)
        crops.append(mask[box[0] : box[2], box[1] : box[3]])
    n = len(ids)
    return MaskPrediction(
        np.array(ids),
        tuple(crops),
        np.array(boxes),
        SIZE,
        np.linspace(0.5, 0.9, n, dtype=np.float32),
        np.zeros((n, 4, 4), np.float32),
    )


def annotate(annotation, target, y, x, *, plane=PLANE, **options):
    """Click and commit one object; return its id."""
    annotation.add_gesture(plane, annotation.next_id, click(y, x))
    prediction = predict_disks(plane, annotation.prompts(plane))
    return annotation.commit(target, plane, prediction, **options)[0]


def header(**changes):
    values = {
        "image": "nuclei",
        "shape": SIZE,
        "model": "default",
        "settings": ImageSettings(),
    }
    return AnnotationHeader(**values | changes)


@pytest.fixture
def target():
    return ArrayLabels(np.zeros(SIZE, np.uint32))


def test_a_commit_paints_clears_the_prompts_and_moves_to_the_next_id(target):
    annotation = Annotation()
    assert annotate(annotation, target, 10, 10) == 1
    assert annotate(annotation, target, 30, 30) == 2
    assert set(np.unique(target.array)) == {0, 1, 2}
    assert annotation.prompts(PLANE) == {}
    assert annotation.next_id == 3


def test_undo_and_redo_of_everything_are_inverse(target):
    annotation = Annotation()
    annotation.set_classes([ObjectClass(1, "nucleus", "#33aa55")])
    first = annotate(annotation, target, 10, 10, class_id=1)
    annotation.add_gesture(PLANE, annotation.next_id, click(20, 20))
    annotation.clear_prompts(PLANE)
    annotation.assign_class(first, None)
    annotate(annotation, target, 12, 14, overlap="replace")
    final = target.array.copy()
    states = []
    while annotation.can_undo:
        states.append((target.array.copy(), annotation.prompts(PLANE).keys()))
        annotation.undo()
    assert not target.array.any()
    assert annotation.classes == ()
    assert annotation.object_classes == {}
    assert annotation.next_id == 1
    while annotation.can_redo:
        annotation.redo()
        array, objects = states.pop()
        np.testing.assert_array_equal(target.array, array)
        assert annotation.prompts(PLANE).keys() == objects
    np.testing.assert_array_equal(target.array, final)


def take_step(annotation, target, step, y, x):
    if step == "click":
        annotation.add_gesture(PLANE, annotation.next_id - y % 2 or 1, click(y, x))
    elif step == "commit" and annotation.prompts(PLANE):
        prediction = predict_disks(PLANE, annotation.prompts(PLANE))
        annotation.commit(target, PLANE, prediction, overlap="replace")
    elif step == "clear":
        annotation.clear_prompts(PLANE)
    elif step == "class" and annotation.classes:
        annotation.assign_class(1 + y % 3, 1 if x % 2 else None)
    elif step == "undo":
        annotation.undo()
    elif step == "redo":
        annotation.redo()


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["click", "commit", "clear", "undo", "redo", "class"]),
            st.integers(0, SIZE[0] - 1),
            st.integers(0, SIZE[1] - 1),
        ),
        max_size=30,
    )
)
@settings(deadline=None, max_examples=40)
def test_any_history_undoes_to_the_start_and_redoes_to_the_end(steps):
    target = ArrayLabels(np.zeros(SIZE, np.uint32))
    annotation = Annotation(delta_memory=100)
    annotation.set_classes([ObjectClass(1, "a", "#000000")])
    for step, y, x in steps:
        take_step(annotation, target, step, y, x)
    while annotation.can_redo:
        annotation.redo()
    end = target.array.copy(), annotation.prompts(PLANE), annotation.object_classes
    n_actions = len(annotation.actions)
    while annotation.can_undo:
        annotation.undo()
    assert not target.array.any()
    assert annotation.prompts(PLANE) == {}
    for _ in range(n_actions):
        annotation.redo()
    np.testing.assert_array_equal(target.array, end[0])
    assert annotation.prompts(PLANE) == end[1]
    assert annotation.object_classes == end[2]


def test_undo_goes_back_past_the_memory_for_pixels():
    rng = np.random.default_rng(0)
    noise = rng.integers(1000, 2**31, (200, 200), np.uint32)
    target = ArrayLabels(noise.copy())
    annotation = Annotation(999, delta_memory=50_000)
    full = MaskPrediction(
        np.array([1]),
        (np.ones((200, 200), bool),),
        np.array([[0, 0, 200, 200]]),
        (200, 200),
        np.ones(1, np.float32),
        np.zeros((1, 4, 4), np.float32),
    )
    annotation.commit(target, PLANE, full, overlap="replace")
    assert (target.array == 1).all()
    annotation.undo()
    np.testing.assert_array_equal(target.array, noise)
    annotation.close()


def test_the_memory_of_a_commit_is_that_of_its_crop():
    target = ArrayLabels(np.zeros((4000, 4000), np.uint32))
    annotation = Annotation()
    annotate(annotation, target, 20, 20)
    commit = annotation.actions[-1]
    assert isinstance(commit, Commit)
    assert commit.delta.before.shape == (11, 11)
    assert commit.delta.before.length + commit.delta.after.length < 500


@pytest.mark.parametrize(("overlap", "winner"), [("keep", 1), ("replace", 2)])
def test_overlap_rules(target, overlap, winner):
    annotation = Annotation()
    annotate(annotation, target, 10, 10)
    before = target.array == 1
    annotate(annotation, target, 10, 18, overlap=overlap)
    both = before & predict_disks(PLANE, {2: [click(10, 18)]}).masks[0]
    assert both.any()
    assert (target.array[both] == winner).all()


def test_labels_that_would_be_touched_are_named(target):
    target.array[5:9, 5:9] = 41
    target.array[12:14, 12:14] = 7
    prediction = predict_disks(PLANE, {3: [click(10, 10)]})
    assert overlapped_labels(target, PLANE, prediction) == (7, 41)


def test_a_refined_label_keeps_its_id_and_moves(target):
    target.array[2:20, 2:20] = 9
    annotation = Annotation()
    annotation.reserve_ids(target, 9)
    annotation.add_gesture(PLANE, 9, label_gesture(target.array, (10, 10)), target)
    annotation.add_gesture(PLANE, 9, click(10, 10), target)
    prediction = predict_disks(PLANE, annotation.prompts(PLANE))
    annotation.commit(target, PLANE, prediction)
    np.testing.assert_array_equal(target.array == 9, prediction.masks[0])
    assert annotation.next_id == 10
    annotation.undo()
    assert (target.array[2:20, 2:20] == 9).all()


@pytest.mark.parametrize(
    ("plane", "where"),
    [
        (PlaneKey((2,), (1, 2)), np.s_[2]),
        (PlaneKey((2,), (0, 2)), np.s_[:, 2]),
        (PlaneKey((2,), (2, 0)), np.s_[:, 2]),
    ],
)
def test_planes_of_a_volume_in_any_orientation(plane, where):
    target = ArrayLabels(np.zeros((50, 50, 50), np.uint16))
    annotation = Annotation()
    annotate(annotation, target, 10, 30, plane=plane)
    mask = predict_disks(plane, {1: [click(10, 30)]}).masks[0]
    size = (50, 50)
    expected = np.zeros(size, bool)
    expected[: SIZE[0], : SIZE[1]] = mask
    turned = expected.T if plane.axes[0] > plane.axes[1] else expected
    np.testing.assert_array_equal(target.array[where] == 1, turned)
    assert (target.array > 0).sum() == mask.sum()


def test_an_id_beyond_the_data_type_writes_nothing():
    target = ArrayLabels(np.zeros(SIZE, np.uint8))
    annotation = Annotation(256)
    with pytest.raises(LabelOverflowError, match=r"object 256 .* 255.*uint32"):
        annotate(annotation, target, 10, 10)
    assert not target.array.any()
    assert list(annotation.prompts(PLANE)) == [256]


def test_nothing_to_commit(target):
    annotation = Annotation()
    with pytest.raises(InvalidPromptError, match="no mask"):
        annotation.commit(target, PLANE, predict_disks(PLANE, {}))
    target.array[:] = 8
    with pytest.raises(InvalidPromptError, match="wholly on labels"):
        annotate(annotation, target, 10, 10)
    assert (target.array == 8).all()


def test_class_tables_are_checked():
    annotation = Annotation()
    with pytest.raises(SettingsError, match="of its own"):
        annotation.set_classes(
            [ObjectClass(1, "a", "#000000"), ObjectClass(1, "b", "#000000")]
        )
    with pytest.raises(SettingsError, match="not in the class table"):
        annotation.assign_class(1, 5)
    for bad in [(0, "a", "#000000"), (1, " ", "#000000"), (1, "a", "red")]:
        with pytest.raises(SettingsError):
            ObjectClass(*bad)


def test_a_removed_target_takes_its_commits_along_but_not_the_prompts(target):
    annotation = Annotation()
    annotate(annotation, target, 10, 10)
    annotation.add_gesture(PLANE, 2, click(20, 20))
    annotation.forget_target(target)
    annotation.undo()
    assert not annotation.can_undo
    assert (target.array == 1).any()
    assert annotation.next_id == 2


def paint(annotation, target, region, label):
    """Paint by hand, as napari reports it."""
    before = target.read(region)
    target.write(region, np.full_like(before, label))
    after = target.read(region)
    annotation.record_stroke(target, [PixelChange(region, before, after)])


def test_ids_of_other_labels_stay_reserved_after_undo(target):
    annotation = Annotation()
    annotate(annotation, target, 10, 10)
    other = ArrayLabels(np.zeros(SIZE, np.uint32))
    other.array[30:35, 30:35], other.array[36:38, 36:38] = 1, 2
    annotation.reserve_ids(other, 2)
    annotation.undo()
    assert annotation.next_id == 3
    prediction = predict_disks(PLANE, annotation.prompts(PLANE))
    assert annotation.commit(other, PLANE, prediction) == (3,)
    assert (other.array == 1).sum() == 25
    annotation.undo()
    assert list(annotation.prompts(PLANE)) == [1]
    assert annotation.commit(target, PLANE, prediction) == (1,)


def test_an_object_that_goes_on_in_another_plane_keeps_its_id():
    target = ArrayLabels(np.zeros((2, *SIZE), np.uint32))
    annotation = Annotation()
    for z in (0, 1):
        plane = PlaneKey((z,), (1, 2))
        annotation.add_gesture(plane, 1, click(10, 10), target)
        prediction = predict_disks(plane, annotation.prompts(plane))
        assert annotation.commit(target, plane, prediction) == (1,)


def test_the_label_of_a_stroke_stays_reserved_after_redo(target):
    annotation = Annotation()
    paint(annotation, target, np.s_[2:4, 3:5], 9)
    annotation.undo()
    assert not target.array.any()
    annotation.redo()
    assert (target.array[2:4, 3:5] == 9).all()
    assert annotation.next_id == 10


def test_a_removed_class_leaves_its_objects_and_its_id(target):
    annotation = Annotation()
    first, second = ObjectClass(1, "a", "#000000"), ObjectClass(2, "b", "#000000")
    annotation.set_classes([first, second])
    annotate(annotation, target, 10, 10, class_id=2)
    annotation.set_classes([first])
    assert annotation.object_classes == {}
    assert annotation.next_class_id == 3
    annotation.undo()
    assert annotation.object_classes == {1: 2}
    annotation.redo()
    assert annotation.object_classes == {}


def test_runs_and_noise_are_kept_alike():
    store = DeltaStore(1000)
    noise = np.random.default_rng(0).integers(0, 9, (40, 50)).astype(np.uint8)
    for array in (noise, np.repeat(noise, 30, axis=1), noise[:0], noise[:1, :1]):
        kept = store.put(array).get()
        assert kept.dtype == array.dtype
        np.testing.assert_array_equal(kept, array)
    assert store.put(np.full((3000, 3000), 7, np.uint32)).length < 100


class TestReplay:
    def document(self, tmp_path, target):
        """Two classes, two objects, and a stroke over the first."""
        annotation = Annotation()
        annotation.set_classes(
            [ObjectClass(1, "nucleus", "#33aa55"), ObjectClass(2, "axon", "#33aa55")]
        )
        annotate(annotation, target, 10, 10, class_id=1)
        annotate(annotation, target, 30, 30, class_id=2)
        paint(annotation, target, np.s_[8:12, 8:30], 1)
        paint(annotation, target, np.s_[20:22, 8:30], 7)
        write_annotation(tmp_path / "a.json", annotation, header())
        return read_annotation(tmp_path / "a.json")

    def test_strokes_come_back(self, tmp_path, target):
        document = self.document(tmp_path, target)
        again, labels = Annotation(), ArrayLabels(np.zeros(SIZE, np.uint32))
        list(replay_annotation(document, again, labels))
        np.testing.assert_array_equal(labels.array, target.array)

    def test_ids_and_classes_in_use_are_left_alone(self, tmp_path, target):
        document = self.document(tmp_path, target)
        labels = ArrayLabels(np.zeros(SIZE, np.uint32))
        again = Annotation()
        again.set_classes([ObjectClass(1, "axon", "#33aa55")])
        annotate(again, labels, 30, 5, class_id=1)
        own = labels.array.copy()
        list(replay_annotation(document, again, labels))
        expected = np.where(target.array > 0, target.array + 1, own)
        np.testing.assert_array_equal(labels.array, expected)
        names = {row.class_id: row.name for row in again.classes}
        assert names == {1: "axon", 3: "nucleus"}
        assert again.object_classes == {1: 1, 2: 3, 3: 1}

    def test_a_label_that_was_refined_keeps_its_id(self, tmp_path, target):
        target.array[2:20, 2:20] = 9
        original = target.array.copy()
        annotation = Annotation()
        annotation.reserve_ids(target, 9)
        gesture = label_gesture(target.array, (10, 10))
        annotation.add_gesture(PLANE, 9, gesture, target)
        annotation.add_gesture(PLANE, 9, click(10, 10), target)
        prediction = predict_disks(PLANE, annotation.prompts(PLANE))
        annotation.commit(target, PLANE, prediction)
        write_annotation(tmp_path / "a.json", annotation, header())
        again, labels = Annotation(), ArrayLabels(original)
        again.reserve_ids(labels, 9)
        list(replay_annotation(read_annotation(tmp_path / "a.json"), again, labels))
        np.testing.assert_array_equal(labels.array, target.array)

    def test_a_renumbered_object_is_followed(self, tmp_path, target):
        annotation = Annotation()
        annotation.set_classes([ObjectClass(1, "nucleus", "#33aa55")])
        annotation.add_gesture(PLANE, 1, click(10, 10))
        annotation.reserve_ids(target, 4)
        prediction = predict_disks(PLANE, annotation.prompts(PLANE))
        assert annotation.commit(target, PLANE, prediction) == (5,)
        annotation.assign_class(5, 1)
        write_annotation(tmp_path / "a.json", annotation, header())
        again, labels = Annotation(), ArrayLabels(np.zeros(SIZE, np.uint32))
        list(replay_annotation(read_annotation(tmp_path / "a.json"), again, labels))
        assert again.prompts(PLANE) == {}
        assert again.object_classes == {1: 1}

    @pytest.mark.parametrize("n_steps", [1, 4, 7])
    def test_what_is_cut_off_leaves_nothing(self, tmp_path, target, n_steps):
        document = self.document(tmp_path, target)
        labels, again = ArrayLabels(np.zeros(SIZE, np.uint32)), Annotation()
        paint(again, labels, np.s_[0:2, 0:2], 3)
        steps = replay_annotation(document, again, labels)
        for _ in range(n_steps):
            next(steps)
        paint(again, labels, np.s_[38:40, 0:2], 2)
        steps.close()
        assert again.classes == ()
        assert again.planes == ()
        assert np.count_nonzero(labels.array) == 8
        assert len(again.actions) == 2

    def test_what_does_not_fit_leaves_nothing(self, tmp_path, target):
        document = self.document(tmp_path, target)
        labels = ArrayLabels(np.zeros(SIZE, np.uint8))
        again = Annotation(254)
        with pytest.raises(LabelOverflowError):
            list(replay_annotation(document, again, labels))
        assert not labels.array.any()
        assert not again.can_undo


def test_a_save_that_comes_late_does_not_go_back_in_time(tmp_path, target):
    annotation = Annotation()
    annotate(annotation, target, 10, 10)
    older = annotation.actions
    annotate(annotation, target, 30, 30)
    autosave = Autosave(tmp_path / "a.json", header())
    autosave.save(annotation.actions, 2)
    autosave.save(older, 1)
    assert len(read_annotation(tmp_path / "a.json").records) == 4


class TestFile:
    def annotation(self, target):
        annotation = Annotation()
        annotation.set_classes([ObjectClass(1, "nucleus", "#33aa55")])
        annotate(annotation, target, 10, 10, class_id=1)
        annotate(annotation, target, 14, 16)
        annotate(annotation, target, 35, 45, overlap="replace")
        annotation.add_gesture(PLANE, 4, click(2, 2))
        annotation.clear_prompts(PLANE)
        annotation.assign_class(2, 1)
        annotation.add_gesture(PLANE, 4, label_gesture(target.array, (10, 10)))
        annotation.add_gesture(
            PLANE, 4, Gesture("lasso", np.array([[1.5, 2], [9, 2], [9, 9.25]]))
        )
        return annotation

    @pytest.mark.parametrize("predict", [None, predict_disks])
    def test_replay_reproduces_labels_prompts_and_classes(
        self, tmp_path, target, predict
    ):
        annotation = self.annotation(target)
        write_annotation(tmp_path / "a.json", annotation, header())
        document = read_annotation(tmp_path / "a.json")
        assert document.header == header()
        again, labels = Annotation(), ArrayLabels(np.zeros(SIZE, np.uint32))
        steps = list(replay_annotation(document, again, labels, predict=predict))
        assert steps[-1].done == steps[-1].total == len(annotation.actions)
        np.testing.assert_array_equal(labels.array, target.array)
        assert again.classes == annotation.classes
        assert again.object_classes == annotation.object_classes
        gestures = again.prompts(PLANE)[4]
        for new, old in zip(gestures, annotation.prompts(PLANE)[4], strict=True):
            np.testing.assert_array_equal(new.vertices_yx, old.vertices_yx)
            np.testing.assert_array_equal(new.mask, old.mask)
        while again.can_undo:
            again.undo()
        assert not labels.array.any()

    def test_autosave_follows_undo_and_holds_what_write_would(self, tmp_path, target):
        autosave = Autosave(tmp_path / "deep" / "auto.json", header())
        annotation = self.annotation(target)
        for move in (
            annotation.undo,
            annotation.undo,
            annotation.undo,
            annotation.redo,
        ):
            move()
            autosave.save(annotation.actions)
            write_annotation(tmp_path / "whole.json", annotation, header())
            saved = autosave.path.read_text()
            assert saved == (tmp_path / "whole.json").read_text()
            assert len(json.loads(saved)["actions"]) == len(annotation.actions)
        assert list(autosave.path.parent.iterdir()) == [autosave.path]

    def test_a_failed_save_leaves_the_last_one(self, tmp_path, target, monkeypatch):
        autosave = Autosave(tmp_path / "auto.json", header())
        annotation = self.annotation(target)
        autosave.save(annotation.actions)
        good = autosave.path.read_text()

        def full(_):
            raise OSError("disk full")

        monkeypatch.setattr("os.fsync", full)
        annotation.undo()
        with pytest.raises(OSError, match="disk full"):
            autosave.save(annotation.actions)
        assert autosave.path.read_text() == good

    def test_missing_file(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"no annotation .*gone\.json"):
            read_annotation(tmp_path / "gone.json")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c.update(format="other"), "not an annotation"),
            (lambda c: c.update(version=99), "version 99"),
            (lambda c: c.pop("settings"), "damaged header"),
            (lambda c: c["settings"].update(low=400), "damaged header"),
            (lambda c: c.update(actions={}), "damaged header"),
            (lambda c: c["actions"].insert(1, {"do": "dance"}), "action 2 .*damaged"),
            (lambda c: c["actions"][1].pop("object"), "action 2 .*damaged"),
            (lambda c: c["actions"][1].update(kind="wink"), "action 2 .*wink"),
            (lambda c: c["actions"][1].update(vertices_yx=[["a"]]), "action 2 "),
            (
                lambda c: c["actions"][2]["objects"][0]["runs"].append(5),
                "action 3 .*runs",
            ),
        ],
    )
    def test_damage_is_named(self, tmp_path, target, change, message):
        path = tmp_path / "a.json"
        write_annotation(path, self.annotation(target), header())
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(InvalidPromptError, match=message):
            read_annotation(path)

    @pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
    def test_not_an_annotation_at_all(self, tmp_path, text):
        path = tmp_path / "a.json"
        path.write_text(text)
        with pytest.raises(InvalidPromptError):
            read_annotation(path)

    @given(bits=st.lists(st.booleans(), min_size=1, max_size=40))
    def test_runs_keep_any_mask(self, bits):
        from napari_samseg.core.annotation_records import _runs, _unpack_runs

        mask = np.array(bits)[np.newaxis]
        runs = _runs(mask)
        np.testing.assert_array_equal(_unpack_runs(runs, mask.shape), mask)
