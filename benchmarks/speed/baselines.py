"""Perceptual losses that people use instead, with random weights: time and memory do not depend on the weights.

Nothing is downloaded, and no number of these networks means anything but its cost.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from sr_perceptual_loss.critics.base import normalise

__all__ = ["BASELINES", "build_baseline"]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Positions in torchvision's VGG16: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.
DISTS_LAYERS = ("3", "8", "15", "22", "29")
DISTS_CHANNELS = (3, 64, 128, 256, 512, 512)
# In VGG19: conv1_2, conv2_2, conv3_4, conv4_4, conv5_4, before their ReLU, with the weights of the usual YAML.
VGG19_LAYERS = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}


def _layers(configuration: str) -> nn.Sequential:
    """The convolutional part alone; a whole VGG would draw 120 million random numbers more."""
    layers: nn.Sequential = make_layers(cfgs[configuration])
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layers


class Lpips(nn.Module):
    """LPIPS v0.1 of the package lpips: VGG16 with random weights, and its linear layers."""

    def __init__(self) -> None:
        super().__init__()
        import lpips

        with warnings.catch_warnings():
            # It uses torchvision's old spelling of `weights=`.
            warnings.simplefilter("ignore")
            self.net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """(N, 3, H, W) twice -> (N,)."""
        return self.net(sr, hr, normalize=True).flatten()


class Dists(nn.Module):
    """DISTS of the package piq: VGG16, alpha and beta random. It reduces images above 256 pixels to 256."""

    def __init__(self) -> None:
        super().__init__()
        from piq import perceptual

        weights = [torch.rand(1, c, 1, 1) / (2 * sum(DISTS_CHANNELS)) for c in 2 * DISTS_CHANNELS]
        # DISTS.__init__ downloads; the arguments are those that it passes on.
        self.net = perceptual.DISTS.__new__(perceptual.DISTS)
        perceptual.ContentLoss.__init__(
            self.net, _layers("D"), DISTS_LAYERS, weights, replace_pooling=True, reduction="none",
            allow_layers_weights_mismatch=True,
        )  # fmt: skip

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """(N, 3, H, W) twice -> (N,)."""
        return self.net(sr, hr)


class Vgg19(nn.Module):
    """sum_l w_l mean|phi_l(sr) - phi_l(hr)| over five layers of VGG19, like BasicSR's PerceptualLoss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _layers("E")[: max(VGG19_LAYERS) + 1]

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """(N, 3, H, W) twice -> (N,)."""
        with torch.no_grad():
            expected = self._features(hr)
        parts = zip(VGG19_LAYERS.values(), self._features(sr), expected, strict=True)
        return torch.stack([weight * (a - b).abs().mean((1, 2, 3)) for weight, a, b in parts]).sum(0)

    def _features(self, image: Tensor) -> list[Tensor]:
        x, features = normalise(image, *IMAGENET), []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in VGG19_LAYERS:
                # Cloned, since the ReLU that follows works in place; so does BasicSR.
                features.append(x.clone())
        return features


BASELINES: dict[str, type[nn.Module]] = {"lpips_vgg": Lpips, "dists": Dists, "vgg19": Vgg19}


def build_baseline(name: str, device: str = "cpu") -> nn.Module:
    """One of :data:`BASELINES`, frozen: ``module(sr, hr) -> (N,)`` for images in [0, 1].

    Raises:
        ImportError: its package is missing: ``pip install 'sr_perceptual_loss[dev]'``.
    """
    return BASELINES[name]().eval().requires_grad_(False).to(device)
