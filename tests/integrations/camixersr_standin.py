"""CAMixerSR's contract in small: the text of its `archs` and `models`, with the faults that it ships with.

The network reads `self.ratio` in train mode and never sets it, returns (output, routing term) there, and draws noise in
evaluation too; the model has its own training step and optimizers.
"""

from __future__ import annotations

ARCH = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


class Mixer(nn.Module):
    def __init__(self, ratio):
        super().__init__()
        self.ratio = ratio


@ARCH_REGISTRY.register()
class CAMixerSR(nn.Module):
    def __init__(self, n_block=(4, 4, 6, 6), n_group=4, n_colors=3, n_feats=60, scale=4, ratio=0.5, tile=None):
        super().__init__()
        self.mixer = Mixer(ratio)
        self.net = nn.Sequential(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x):
        noise = torch.rand(())
        if self.training:
            return self.net(x) + 0 * noise, 2 * self.ratio * (noise - 0.5) ** 2
        return self.net(x) + noise
"""
MODEL = """
import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class CAModel(SRModel):
    def get_optimizer(self, optim_type, params, lr, **kwargs):
        return getattr(torch.optim, optim_type)(params, lr, **kwargs)

    def optimize_parameters(self, current_iter):
        self.optimizer_g.zero_grad()
        self.output, loss_ratio = self.net_g(self.lq)
        values, total = {"l_ratio": loss_ratio}, loss_ratio
        if self.cri_pix:
            values["l_pix"] = self.cri_pix(self.output, self.gt)
            total = total + values["l_pix"]
        if self.cri_perceptual:
            values["l_percep"], style = self.cri_perceptual(self.output, self.gt)
            assert style is None
            total = total + values["l_percep"]
        total.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(values)
"""
