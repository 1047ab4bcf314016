"""Fixtures shared by all tests: tiny real models and the folder of real images."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segment_anything.modeling import Sam

# Machines that run tests are busy: how long an example takes says nothing.
settings.register_profile("samseg", deadline=None)
settings.load_profile("samseg")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered between sessions out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_cluster_stays() -> Iterator[None]:
    """Make sure that no cluster is left to compute what other tests read."""
    yield
    config = sys.modules.get("dask.config")
    assert config is None or config.get("scheduler", None) is None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real images with labels; see its README."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("SAMSEG_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}: set SAMSEG_DATA")
    return folder


def build_tiny_sam(input_size: int = 64, width: int = 32) -> Sam:
    """Build SAM from segment_anything's own classes, small and seeded.

    segment_anything starts relative and absolute positions at zero, so that a
    test would pass even if they were dropped: they are drawn from N(0, 0.02).
    """
    from napari_samseg.core.models.linking import link_triton_apart

    link_triton_apart()
    import torch
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        grid = input_size // 16
        sam = Sam(
            ImageEncoderViT(
                img_size=input_size,
                embed_dim=width,
                depth=2,
                num_heads=2,
                out_chans=width,
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            PromptEncoder(width, (grid, grid), (input_size, input_size), 8),
            MaskDecoder(
                transformer_dim=width,
                transformer=TwoWayTransformer(2, width, 2, 64),
                iou_head_hidden_dim=width,
            ),
        )
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    return sam.eval()


@pytest.fixture
def make_tiny_sam() -> Callable[..., Sam]:
    """Builder of small SAM modules with chosen input size and width."""
    return build_tiny_sam


@pytest.fixture
def tiny_sam() -> Sam:
    """SAM of two blocks, width 32, for squares of 64 pixels."""
    return build_tiny_sam()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a small model of the embedded family with random weights."""
    from safetensors.torch import save_file
    from small_models import build_small, small_config

    from napari_samseg.core.models.tiny import METADATA_KEY

    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    metadata = {METADATA_KEY: small_config().to_json()}
    save_file(build_small().state_dict(), path, metadata=metadata)
    return path
