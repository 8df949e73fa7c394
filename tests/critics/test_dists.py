from __future__ import annotations

import pytest
import torch
from tiny_critics import pair_for, tiny

from sr_perceptual_loss import create_critic


def similarities(a, b):
    """Texture and structure of two maps of one image by channel, from their means and covariance."""
    a, b = a.flatten(1), b.flatten(1)
    texture = (2 * a.mean(1) * b.mean(1) + 1e-6) / (a.mean(1) ** 2 + b.mean(1) ** 2 + 1e-6)
    covariance = torch.stack([torch.cov(torch.stack(rows), correction=0) for rows in zip(a, b, strict=True)])
    structure = (2 * covariance[:, 0, 1] + 1e-6) / (covariance[:, 0, 0] + covariance[:, 1, 1] + 1e-6)
    return texture, structure


def test_the_formula():
    critic = tiny("dists", torch.float64)
    sr, hr = pair_for(critic, dtype=torch.float64)
    levels = [(sr, hr), *zip(critic.trunk(2 * sr - 1), critic.trunk(2 * hr - 1), strict=True)]
    assert len(levels) == 9
    for image in range(3):
        parts = [similarities(a[image], b[image]) for a, b in levels]
        expected = sum((t.mean() + s.mean()) / 2 if level < 2 else s.mean() for level, (t, s) in enumerate(parts)) / 9
        torch.testing.assert_close(critic.score(sr, hr)[image], expected, rtol=1e-9, atol=1e-12)


def test_the_published_formula():
    critic = tiny("dists_vgg", torch.float64)
    sr, hr = pair_for(critic, dtype=torch.float64)
    maps = [(image, *critic.trunk(critic._normalised(image))) for image in (sr, hr)]
    for image in range(3):
        parts = [similarities(a[image], b[image]) for a, b in zip(*maps, strict=True)]
        texture, structure = (torch.cat(part) for part in zip(*parts, strict=True))
        total = critic.alpha.sum() + critic.beta.sum()
        expected = (critic.alpha * texture + critic.beta * structure).sum() / total
        torch.testing.assert_close(critic.score(sr, hr)[image], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dists", "dists_vgg"])
def test_a_colour_cast_lowers_the_score(name):
    critic = (create_critic(name) if name == "dists" else tiny(name)).requires_grad_(False)
    _, hr = pair_for(critic)
    cast = hr + torch.tensor([0.1, 0.0, -0.1]).view(3, 1, 1)
    assert (critic.score(cast, hr) < critic.score(hr, hr) - 1e-3).all()
