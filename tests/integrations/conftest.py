"""BasicSR models without files, GPUs or downloads."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import sr_perceptual_loss.integrations.basicsr_shim  # noqa: F401 - first, so that basicsr can be imported

from .camixersr_standin import ARCH, MODEL

G = {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 1, "upscale": 4, "act_type": "prelu"}
D = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4, "skip_connection": True}
ADAM = {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]}
GAN = {"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0, "loss_weight": 0.1}
L1 = {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}


def settle(model):
    """The discriminator in eval mode, since each call in train mode takes a power iteration of spectral norm.

    Before some of them its gradient would be a million times that of the other losses, and hide them.
    """
    with torch.no_grad():
        for _ in range(20):
            model.net_d(model.gt)
    model.net_d.eval()


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


@pytest.fixture
def project(tmp_path):
    """A folder with four image pairs and a YAML; returns (folder, write_yaml)."""
    generator = np.random.default_rng(0)
    for kind, side in (("GT", 64), ("LR", 16)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(4):
            image = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "data" / kind / f"{i}.png")

    def write(name="run", total=4, workers=0, train=None, **top):
        folders = {"dataroot_gt": "data/GT", "dataroot_lq": "data/LR", "io_backend": {"type": "disk"}}
        opt = {
            "name": name,
            "model_type": "PerceptualSRModel",
            "scale": 4,
            "num_gpu": 0,
            "manual_seed": 0,
            "datasets": {
                "train": {"name": "t", "type": "PairedImageDataset", **folders, "filename_tmpl": "{}", "gt_size": 64,
                          "use_hflip": False, "use_rot": False, "num_worker_per_gpu": workers,
                          "batch_size_per_gpu": 2, "dataset_enlarge_ratio": 10, "prefetch_mode": None},
                "val": {"name": "v", "type": "PairedImageDataset", **folders},
            },
            "network_g": {"type": "SRVGGNetCompact", "num_feat": 8, "num_conv": 1, "upscale": 4, "act_type": "prelu"},
            "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
            "train": {
                "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
                "scheduler": {"type": "MultiStepLR", "milestones": [100], "gamma": 0.5},
                "total_iter": total,
                "warmup_iter": -1,
                "losses": [{"type": "L1Loss"}, {"type": "CriticLoss", "critic": "haarpsi", "crops": {"size": 48}}],
                **(train or {}),
            },
            "val": {"val_freq": 1000, "save_img": False,
                    "metrics": {"haarpsi": {"type": "calculate_haarpsi", "crop_border": 4}}},
            "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False, "wandb": {"project": None}},
            **top,
        }  # fmt: skip
        path = tmp_path / f"{name}.yml"
        path.write_text(yaml.safe_dump(opt))
        return path

    return tmp_path, write


@pytest.fixture
def camixersr():
    """CAMixerSR's stand-in classes in BasicSR's registries, as `--import archs --import models` would leave them."""
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

    from sr_perceptual_loss.integrations.basicsr.projects import ensure_model

    for source in (ARCH, MODEL):
        exec(source, {"__name__": "standin"})
    ensure_model("PerceptualCAModel")
    yield
    ARCH_REGISTRY._obj_map.pop("CAMixerSR")
    for name in ("CAModel", "PerceptualCAModel"):
        MODEL_REGISTRY._obj_map.pop(name)


@pytest.fixture
def basicsr_log(caplog):
    """BasicSR's logger does not propagate by itself."""
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.utils import get_root_logger

    logger = get_root_logger()
    before, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, logger="basicsr"):
        yield caplog
    logger.propagate = before
