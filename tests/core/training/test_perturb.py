from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_samseg.core.errors import SettingsError
from napari_samseg.core.settings import AugmentSettings
from napari_samseg.core.training.perturb import perturb


def features(rng: np.random.Generator) -> torch.Tensor:
    """Channels of very different size."""
    drawn = rng.standard_normal((2, 200, 16, 16))
    scales = 10.0 ** rng.integers(-2, 3, (1, 200, 1, 1))
    return torch.from_numpy((scales * (drawn + 3)).astype(np.float32))


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    given = features(rng)
    state = rng.bit_generator.state
    assert perturb(given, AugmentSettings(noise=20, variants=3), rng) is given
    # a training without it draws the same prompts and clicks as before there was any
    assert rng.bit_generator.state == state


def test_noise_goes_by_the_spread_of_each_channel() -> None:
    rng = np.random.default_rng(0)
    given = features(rng)
    settings = AugmentSettings(feature_noise=0.4)
    strengths = []
    for _ in range(50):
        change = perturb(given, settings, rng) - given
        ratio = change.std(dim=(2, 3)) / given.std(dim=(2, 3))
        assert float(ratio.std()) < 0.1 * float(ratio.mean()) + 1e-6
        strengths.append(float(ratio.mean()))
    assert max(strengths) <= 0.41
    assert np.mean(strengths) == pytest.approx(0.2, abs=0.05)


def test_channels_left_out_show_their_mean() -> None:
    rng = np.random.default_rng(0)
    given = features(rng).requires_grad_(True)
    varied = perturb(given, AugmentSettings(feature_dropout=0.25), rng)
    shown = varied.detach()
    is_same = (shown == given.detach()).all(dim=(2, 3))
    assert float(is_same.float().mean()) == pytest.approx(0.75, abs=0.06)
    torch.testing.assert_close(
        shown.mean(dim=(2, 3)), given.detach().mean(dim=(2, 3)), rtol=1e-4, atol=1e-4
    )
    assert float((shown.amax((2, 3)) - shown.amin((2, 3)))[~is_same].max()) == 0.0
    # an encoder that learns is blamed for the channels that were seen
    varied.sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad[..., 0, 0], is_same.float())


def test_bounds() -> None:
    for name in ("feature_noise", "feature_dropout"):
        with pytest.raises(SettingsError):
            AugmentSettings(**{name: -0.1})
