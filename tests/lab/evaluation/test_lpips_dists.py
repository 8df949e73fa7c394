"""LPIPS and DISTS through their libraries; no test has the published weights."""

from __future__ import annotations

import hashlib

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.lab.evaluation import lpips_dists


def pair(height, width, seed=0):
    sr, hr = make_pair(1, height, width, seed=seed)
    return sr[0], hr[0]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty torch hub folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("lpips", ["https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"]),
        ("lpips_vgg", ["https://download.pytorch.org/models/vgg16-397923af.pth"]),
        ("dists", ["https://download.pytorch.org/models/vgg16-397923af.pth", "dists_weights.pt"]),
    ],
)
def test_missing_weights_are_named_with_address_and_place(hub, name, files):
    pytest.importorskip("piq" if name == "dists" else "lpips")
    sentence = lpips_dists.missing_files(name)
    for file in files:
        assert file in sentence and str(hub / file.rsplit("/", 1)[-1]) in sentence
    with pytest.raises(WeightsError, match="not on this machine"):
        lpips_dists.build_distance(name)


def test_the_addresses_are_those_of_the_libraries():
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    piq = pytest.importorskip("piq")
    assert lpips_dists._ALEX.url == AlexNet_Weights.IMAGENET1K_V1.url
    assert lpips_dists._VGG16.url == VGG16_Weights.IMAGENET1K_V1.url
    assert lpips_dists._DISTS.url == piq.DISTS._weights_url


def test_a_file_that_is_not_the_published_one_is_refused(hub):
    pytest.importorskip("lpips")
    (hub / "alexnet-owt-7be5be79.pth").write_bytes(b"no backbone")
    with pytest.raises(WeightsError, match="7be5be79"):
        lpips_dists.build_distance("lpips")


def stand_in(monkeypatch, hub, file):
    """A file in the place of a backbone, whose real content no test has."""
    content = b"a stand-in for the backbone"
    (hub / file.url.rsplit("/", 1)[1]).write_bytes(content)
    monkeypatch.setitem(file.__dict__, "sha256", hashlib.sha256(content).hexdigest())


def test_lpips_with_a_random_backbone(hub, monkeypatch):
    """The library's heads and scaling over an untrained AlexNet: 0 for equal images, the library's value for others."""
    lpips = pytest.importorskip("lpips")
    from torch import nn

    torch.manual_seed(0)
    widths, layers, last = (64, 192, 384, 256, 256), [], 3
    for i, width in enumerate(widths):
        layers += [nn.Conv2d(last, width, 11 if i == 0 else 3, 4 if i == 0 else 1, 2), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] * (i < 2)
        last = width
    backbone = nn.Module()
    backbone.features = nn.Sequential(*layers)
    monkeypatch.setattr(lpips.pretrained_networks.tv, "alexnet", lambda pretrained: backbone)
    stand_in(monkeypatch, hub, lpips_dists._ALEX)
    distance = lpips_dists.build_distance("lpips")
    sr, hr = pair(64, 64)
    assert distance(hr, hr) == 0
    network = lpips.LPIPS(net="alex", verbose=False)
    assert distance(sr, hr) == pytest.approx(network(2 * sr[None] - 1, 2 * hr[None] - 1).item(), rel=1e-6)
    assert distance(sr, hr) > 1e-4


def test_dists_with_a_random_backbone(hub, monkeypatch):
    """piq's DISTS over an untrained VGG16: 0 for equal images, more for a worse one."""
    piq = pytest.importorskip("piq")
    from torch import nn
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    backbone = nn.Module()
    backbone.features = make_layers(cfgs["D"])
    monkeypatch.setattr(piq.perceptual, "vgg16", lambda pretrained, progress: backbone)
    stand_in(monkeypatch, hub, lpips_dists._VGG16)
    count = 2 * (3 + 64 + 128 + 256 + 512 + 512)
    weights = torch.full((1, count // 2, 1, 1), 1 / count)
    torch.save({"alpha": weights, "beta": weights.clone()}, hub / "dists_weights.pt")
    distance = lpips_dists.build_distance("dists")
    sr, hr = pair(64, 64)
    noisy = (sr + 0.2 * torch.randn(sr.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert distance(hr, hr) == pytest.approx(0, abs=1e-5)
    assert 1e-5 < distance(sr, hr) < distance(noisy, hr) < 1


class Evil:
    def __reduce__(self):
        return (print, ("code of a pickle ran",))


def test_a_weights_file_that_could_run_code_is_refused(hub, monkeypatch, capsys):
    pytest.importorskip("piq")
    stand_in(monkeypatch, hub, lpips_dists._VGG16)
    torch.save({"alpha": Evil()}, hub / "dists_weights.pt")
    with pytest.raises(WeightsError, match="dists_weights.pt"):
        lpips_dists.build_distance("dists")
    assert "code of a pickle ran" not in capsys.readouterr().out
