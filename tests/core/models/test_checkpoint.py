from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from napari_samseg.core.chosen_model import model_steps
from napari_samseg.core.errors import (
    CheckpointError,
    MissingFileError,
    ModelMemoryError,
    SettingsError,
)
from napari_samseg.core.memory import MemoryFallbackWarning
from napari_samseg.core.models import MODEL_FAMILIES, families, load_model
from napari_samseg.core.models.checkpoint import load_tensors, read_checkpoint
from napari_samseg.core.settings import ModelSettings
from napari_samseg.core.steps import run_steps
from napari_samseg.core.training.result import write_tensors


@pytest.fixture
def tensors(tiny_sam):
    return tiny_sam.state_dict()


def assert_equal(read, tensors):
    assert list(read) == list(tensors)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_state_dict_is_read(tmp_path, tensors, suffix):
    path = tmp_path / f"sam{suffix}"
    torch.save(tensors, path)
    assert_equal(read_checkpoint(path).tensors, tensors)


def test_safetensors_are_read_with_their_metadata(tmp_path, tensors):
    path = tmp_path / "sam.safetensors"
    save_file(tensors, path, metadata={"about": "a test"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == {"about": "a test"}
    assert checkpoint.tensors.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda state: {"model_state": state, "decoder_state": {}}, "sam."),
        (lambda state: {"state_dict": state, "epoch": 3}, "model."),
        (lambda state: {"model": state, "optimizer": {"step": 1}}, "module."),
        (lambda state: {"model_state": state}, ""),
        (lambda state: state | {"loss.weight": torch.ones(1)}, "net.sam."),
    ],
    ids=["micro-sam", "lightning", "medsam", "plain", "beside other things"],
)
def test_a_model_inside_a_training_state_is_unwrapped(tmp_path, tensors, wrap, prefix):
    path = tmp_path / "training.pt"
    torch.save(wrap({prefix + name: tensor for name, tensor in tensors.items()}), path)
    assert_equal(read_checkpoint(path).tensors, tensors)


class Malicious:
    """Unpickled the ordinary way, this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_zipped(content, path):
    torch.save(content, path)


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [save_zipped, save_legacy, save_pickle])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, tensors, save):
    proof = tmp_path / "was here"
    path = tmp_path / "evil.pth"
    save({**tensors, "extra": Malicious(proof)}, path)
    with pytest.raises(CheckpointError, match=r"evil\.pth .*run code.*refused"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="refused"):
        load_model(path)
    assert not proof.exists()
    # The file is no harmless one: an ordinary reader does run it.
    if save is save_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"there is no checkpoint .*none\.pth"):
        read_checkpoint(tmp_path / "none.pth")


def test_another_kind_of_file_is_named(tmp_path):
    path = tmp_path / "image.tif"
    path.write_bytes(b"II*\0")
    with pytest.raises(CheckpointError, match=r"image\.tif.*\.pth, \.pt, \.saf"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_refused(tmp_path, tensors, suffix, part):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello", b"\0" * 100, b"<html>not found</html>"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_something_else_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"page{suffix}"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.ones(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        read_checkpoint(path)


def test_tensors_that_do_not_fit_are_named(make_tiny_sam, tensors):
    wrong = dict(tensors)
    for i in range(1, 5):
        wrong[f"image_encoder.extra.{i}"] = torch.ones(1)
    del wrong["image_encoder.pos_embed"]
    wrong["mask_decoder.iou_token.weight"] = torch.ones(2, 2)
    with pytest.raises(CheckpointError) as error:
        load_tensors(make_tiny_sam(), wrong, "mine.pth")
    message = str(error.value)
    assert "mine.pth does not fit" in message
    assert "1 tensor missing: image_encoder.pos_embed" in message
    assert "4 tensors unexpected: image_encoder.extra.1" in message
    assert "and 1 more" in message
    assert "mask_decoder.iou_token.weight (2, 2) instead of (1, 32)" in message


def test_half_precision_tensors_are_loaded_as_float32(make_tiny_sam, tensors):
    sam = make_tiny_sam()
    load_tensors(sam, {name: tensor.half() for name, tensor in tensors.items()}, "half")
    assert {tensor.dtype for tensor in sam.state_dict().values()} == {torch.float32}


# -- load_model ------------------------------------------------------------------


def save_thin(state_dict, path):
    """Save tensors of the right shapes that take no room: one stored value each."""
    thin = {
        name: torch.ones((), dtype=tensor.dtype, device="cpu").expand(tensor.shape)
        for name, tensor in state_dict.items()
    }
    torch.save(thin, path)


@pytest.mark.parametrize(
    ("name", "family"), [("vit_b", "sam"), ("vit_t", "mobile_sam")]
)
def test_published_checkpoints_load_strictly(tmp_path, name, family):
    """Files with the tensors of the published ones, of which ours know nothing."""
    reference = pytest.importorskip("mobile_sam")
    published = reference.sam_model_registry[name]()
    path = tmp_path / f"{name}_lm.pt"
    save_thin(published.state_dict(), path)
    model = load_model(path, device="cpu")
    assert (model.family, model.name) == (family, f"{name}_lm.pt")
    assert (model.input_size, model.low_res_size) == (1024, 256)
    assert model.embedding_shape == (256, 64, 64)
    assert model.sam.pixel_mean.flatten()[0] == pytest.approx(123.675)
    assert next(model.sam.parameters()).device.type == "cpu"


def test_an_input_size_can_be_chosen(tmp_path):
    path = tmp_path / "vit_b.pth"
    with torch.device("meta"):
        save_thin(sam_model_registry["vit_b"]().state_dict(), path)
    settings = ModelSettings(str(path), "cpu", input_size=64)
    model = run_steps(model_steps(settings))
    assert model.input_size == 64
    embedding = model.encode(np.zeros((50, 64, 3), np.float32))
    assert embedding.features["image_embed"].shape == (256, 4, 4)


def test_the_embedded_model_keeps_its_input_size():
    with pytest.raises(SettingsError, match="family tiny keep the input size"):
        load_model(device="cpu", input_size=64)


def test_the_embedded_model_loads():
    model = load_model(device="cpu")
    assert (model.name, model.family) == ("default", "tiny")
    assert model.prior is MODEL_FAMILIES["tiny"].prior


def test_a_checkpoint_of_no_family_is_refused(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"layer1.conv.weight": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"resnet\.pth.*layer1\.conv\.weight"):
        load_model(path)


def test_a_checkpoint_that_lacks_its_decoder_is_refused(tmp_path):
    path = tmp_path / "half.pth"
    with torch.device("meta"):
        state = sam_model_registry["vit_b"]().state_dict()
    save_thin({k: v for k, v in state.items() if "mask_decoder" not in k}, path)
    with pytest.raises(CheckpointError, match=r"missing: mask_decoder\..*more"):
        load_model(path)


def test_a_checkpoint_that_lacks_its_positions_is_refused(tmp_path):
    path = tmp_path / "half.pth"
    with torch.device("meta"):
        state = sam_model_registry["vit_b"]().state_dict()
    save_thin({k: v for k, v in state.items() if "pos_embed" not in k}, path)
    with pytest.raises(CheckpointError, match=r"1 tensor missing: image_encoder\.pos"):
        load_model(path)


def test_a_model_that_does_not_fit_onto_its_device_goes_to_the_cpu(monkeypatch):
    def fill(module, device):
        if device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return module

    monkeypatch.setattr(families, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(families, "choose_dtype", lambda *args: torch.bfloat16)
    monkeypatch.setattr(torch.nn.Module, "to", fill)
    with pytest.warns(MemoryFallbackWarning, match="cuda ran out of memory: default"):
        model = load_model()
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)


def test_a_model_that_does_not_fit_at_all_is_told(monkeypatch):
    def fill(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(families, "read_checkpoint", fill)
    with pytest.raises(ModelMemoryError, match="not enough memory to load model def"):
        load_model(device="cpu")


def test_weights_written_here_are_refused_once_they_have_changed(tmp_path, tensors):
    path = tmp_path / "mine.safetensors"
    write_tensors(path, tensors, {"about": "a test"})
    assert_equal(
        dict(sorted(read_checkpoint(path).tensors.items())),
        dict(sorted(tensors.items())),
    )
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"mine.safetensors is damaged.*copy it"):
        read_checkpoint(path)
