"""BasicSR models without files, GPUs or downloads."""

from __future__ import annotations

import copy

import pytest
import torch

import sr_perceptual_loss.integrations.basicsr_shim  # noqa: F401 - first, so that basicsr can be imported

G = {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 1, "upscale": 4, "act_type": "prelu"}
D = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4, "skip_connection": True}
ADAM = {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]}
GAN = {"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0, "loss_weight": 0.1}
L1 = {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}


@pytest.fixture
def options():
    """An option tree as BasicSR's parser leaves it; `train` overrides, `gan` adds the discriminator."""

    def make(model_type, train, *, network_g=None, gan=None):
        gan = "GAN" in model_type if gan is None else gan
        opt = {
            "name": "test",
            "model_type": model_type,
            "scale": 4,
            "num_gpu": 0,
            "dist": False,
            "rank": 0,
            "world_size": 1,
            "is_train": True,
            "path": {},
            "network_g": copy.deepcopy(network_g or G),
            "train": {
                "optim_g": dict(ADAM),
                "scheduler": {"type": "MultiStepLR", "milestones": [100], "gamma": 0.5},
                **copy.deepcopy(train),
            },
        }
        if gan:
            opt["network_d"] = copy.deepcopy(D)
            opt["train"].setdefault("gan_opt", dict(GAN))
            opt["train"]["optim_d"] = dict(ADAM)
        return opt

    return make


@pytest.fixture
def build(options):
    """build(model_type, train) -> a model with seeded weights and a batch fed in."""
    from basicsr.models import build_model

    import sr_perceptual_loss.integrations.basicsr  # noqa: F401

    def make(model_type, train, *, network_g=None, lr=(16, 16), opt=None):
        torch.manual_seed(3)
        model = build_model(opt or options(model_type, train, network_g=network_g))
        generator = torch.Generator().manual_seed(4)
        batch = {"lq": torch.rand(2, 3, *lr, generator=generator)}
        batch["gt"] = torch.nn.functional.interpolate(batch["lq"], scale_factor=4, mode="bicubic").clamp(0, 1)
        model.feed_data(batch)
        return model

    return make


@pytest.fixture
def small_vgg(monkeypatch):
    """BasicSR's PerceptualLoss with a narrow VGG19 of random weights instead of a download."""
    from basicsr.archs import vgg_arch
    from torch import nn
    from torchvision.models.vgg import cfgs, make_layers

    class Narrow(nn.Module):
        def __init__(self, pretrained=False):
            super().__init__()
            self.features = make_layers([c if c == "M" else max(1, c // 64) for c in cfgs["E"]])

    monkeypatch.setattr(vgg_arch.vgg, "vgg19", Narrow)
