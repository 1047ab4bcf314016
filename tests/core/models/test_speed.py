from __future__ import annotations

import json

import pytest
import torch

from napari_samseg.core.models import speed
from napari_samseg.core.models.sam import SamModel
from napari_samseg.core.models.speed import (
    recall_speed,
    recall_speeds,
    remember_speed,
    speed_path,
)


@pytest.fixture(autouse=True)
def clock(tmp_path, monkeypatch):
    """Keep the file in the test's folder; time is told by hand."""
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    now = [1000.0]
    monkeypatch.setattr(speed.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def model(tiny_sam):
    return SamModel(tiny_sam, name="tiny vit", family="sam")


@pytest.fixture
def remember(clock):
    def later(model, *seconds):
        for value in seconds:
            clock[0] += speed.SECONDS_BETWEEN
            remember_speed(model, value)

    return later


def test_what_was_never_measured_is_not_known(model):
    assert recall_speed(model) is None
    assert not speed_path().exists()


def test_the_median_of_the_last_few_counts(model, remember):
    remember(model, 9)
    assert recall_speed(model) == 9
    remember(model, 1.0, 2.0)
    assert recall_speed(model) == 2.0
    remember(model, *[4.0] * 3, 100.0)
    assert recall_speed(model) == 4.0
    remember(model, *[0.5] * speed.MEASUREMENTS)
    assert recall_speed(model) == 0.5
    (kept,) = json.loads(speed_path().read_text())["seconds"].values()
    assert len(kept) == speed.MEASUREMENTS


def test_a_long_job_writes_now_and_then(model, clock):
    for _ in range(100):
        clock[0] += 1.0
        remember_speed(model, 1.0)
    (kept,) = json.loads(speed_path().read_text())["seconds"].values()
    assert len(kept) == 4


def test_models_devices_and_precisions_are_kept_apart(
    make_tiny_sam, model, remember, monkeypatch
):
    other = SamModel(make_tiny_sam(96), name="other", family="sam")
    half = SamModel(model.sam, name="half", family="sam", dtype=torch.bfloat16)
    remember(model, 1.0)
    remember(other, 2.0)
    remember(half, 3.0)
    assert [recall_speed(each) for each in (model, other, half)] == [1.0, 2.0, 3.0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert recall_speed(model) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Pretended")
    model.device = torch.device("cuda")
    assert recall_speed(model) is None
    remember(model, 0.1)
    assert recall_speed(model) == 0.1


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"seconds": {}, "named": [1]}',
        b'{"seconds": {"KEY": 3}, "named": {}}',
        b'{"seconds": {"KEY": ["1", -2.0]}, "named": {"tiny vit": "KEY"}}',
        b'{"seconds": {}, "named": {"tiny vit": ["KEY"]}}',
    ],
)
def test_a_damaged_file_is_ignored_and_written_anew(model, remember, damage):
    remember(model, 1.0)
    (key,) = json.loads(speed_path().read_text())["seconds"]
    speed_path().write_bytes(damage.replace(b"KEY", key.encode()))
    assert recall_speed(model) is None
    assert recall_speeds() == {}
    remember(model, 2.0)
    assert recall_speed(model) == 2.0
    assert recall_speeds() == {"tiny vit": 2.0}


def test_the_file_is_replaced_whole(model, remember, monkeypatch):
    remember(model, 1.0)
    before = speed_path().read_text()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(speed_path()), "replace", full)
    remember(model, 2.0)
    assert speed_path().read_text() == before


def test_where_nothing_can_be_written_there_is_no_estimate(
    model, remember, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "file" / "cache"))
    remember(model, 1.0)
    assert recall_speed(model) is None


def test_a_name_has_the_speed_it_had_last(model, make_tiny_sam, clock, remember):
    other = SamModel(make_tiny_sam(96), name="other", family="sam")
    half = SamModel(model.sam, name="tiny vit", family="sam", dtype=torch.bfloat16)
    assert recall_speeds() == {}
    remember(model, 1.0, 3.0)
    remember(other, 5.0)
    assert recall_speeds() == {"tiny vit": 2.0, "other": 5.0}
    # with another precision, and then as before
    remember(half, 0.5)
    assert recall_speeds() == {"tiny vit": 0.5, "other": 5.0}
    remember(model, 2.0)
    assert recall_speeds() == {"tiny vit": 2.0, "other": 5.0}
    # what several planes side by side, or a training, take is not one plane's
    clock[0] += speed.SECONDS_BETWEEN
    remember_speed(model, 0.01, lanes=4)
    remember_speed(model, 9.0, what="training")
    assert recall_speeds()["tiny vit"] == 2.0


def test_who_shares_an_encoder_has_its_speed_at_once(model, make_tiny_sam, clock):
    tuned = SamModel(model.sam, name="tuned", family="sam")
    half = SamModel(model.sam, name="tiny vit", family="sam", dtype=torch.bfloat16)
    for _ in range(5):
        remember_speed(model, 1.0)
        remember_speed(tuned, 1.0)
    assert recall_speeds() == {"tiny vit": 1.0, "tuned": 1.0}
    # to another precision and back, within the time between two writings
    remember_speed(half, 0.5)
    assert recall_speeds()["tiny vit"] == 0.5
    remember_speed(model, 1.0)
    assert recall_speeds()["tiny vit"] == 1.0
