"""RQI on MANIQA with weights that never change again; made by ``RQIManiqa.inference_form()``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_perceptual_loss.critics.base import Critic, TargetFeatures, normalise
from sr_perceptual_loss.critics.rqi_maniqa.network import HALF, RQIManiqa, TABlock
from sr_perceptual_loss.ops.channel_attention import channel_attention, merged_maps
from sr_perceptual_loss.ops.fold import frozen_copy
from sr_perceptual_loss.ops.vit import block_tokens
from sr_perceptual_loss.ops.winograd import with_winograd

__all__ = ["RQIManiqaInference"]


class MergedTAB(nn.Module):
    """:class:`TABlock` in eval mode with one linear for q, k and v.

    Args:
        block: not modified.
    """

    def __init__(self, block: TABlock) -> None:
        super().__init__()
        weight, bias = merged_maps(block.c_q, block.c_k, block.c_v, block.scale)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor, live: tuple[tuple[int, int], ...] | None = None) -> Tensor:
        """(N, C, P) -> (N, C, P); for ``live`` see :func:`channel_attention`."""
        out = channel_attention(x, self.weight, self.bias, live)
        # Read as if transposed; see TABlock.
        return x + out.mT.reshape(x.shape)


class RQIManiqaInference(RQIManiqa):
    """The same scores and gradients to ``sr`` as the critic that it is made from; cannot be trained.

    The unused blocks are not there, maps stay tokens (no transposed copies), and the channels that come from the
    reference get no gradient.

    Args:
        critic: shares its unchanged tensors; not modified.
    """

    def __init__(self, critic: RQIManiqa) -> None:
        super(RQIManiqa, self).__init__(config=critic.config, input_size=critic.input_size)
        self.kernels, self.autocast_dtype = critic.kernels, critic.autocast_dtype
        self.taps, self.grid = critic.taps, critic.grid
        self.vit = frozen_copy(critic.vit)
        self.vit.blocks = self.vit.blocks[: critic.taps[-1] + 1]
        self.vit.norm = self.vit.head = nn.Identity()
        for name in ("conv0_x", "conv0_x1", "conv1", "conv2", "fc_score", "fc_weight"):
            setattr(self, name, frozen_copy(getattr(critic, name)))
        for name in ("tablock1", "tablock2"):
            setattr(self, name, nn.ModuleList(MergedTAB(block) for block in getattr(critic, name)))
        for name in ("swintransformer1", "swintransformer2"):
            stage = frozen_copy(getattr(critic, name))
            stage.downsample = nn.Identity()
            # Tokens read as a map lie with the channels last, so the convolutions need no copies of them.
            setattr(self, name, with_winograd(stage).to(memory_format=torch.channels_last))
        self.eval()

    def inference_form(self) -> Critic:
        """This critic itself."""
        return self

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return (self._tokens(hr),)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        judged, (reference,) = self._tokens(sr), target
        with torch.no_grad():
            constant = _to_rows(self.conv0_x1, reference)
        x = torch.cat([_to_rows(self.conv0_x1, judged), constant, _to_rows(self.conv0_x, judged - reference)], dim=1)
        width = constant.shape[1]
        live: tuple[tuple[int, int], ...] | None = ((0, width), (2 * width, x.shape[1]))
        for block in self.tablock1:
            x = block(x, live)
            live = None  # from here on every channel has seen the judged image
        x = self.swintransformer1.tokens(_to_tokens(self.conv1, x)).mT
        for block in self.tablock2:
            x = block(x)
        return self._pool(self.swintransformer2.tokens(_to_tokens(self.conv2, x)))

    def _tokens(self, image: Tensor) -> Tensor:
        """(N, 3, side, side) -> (N, tokens, taps * width)."""
        return torch.cat(block_tokens(self.vit, normalise(image, HALF, HALF), self.taps), dim=2)


def _to_rows(conv: nn.Conv2d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product: (N, P, C) -> (N, O, P), channels as rows."""
    assert conv.bias is not None
    return conv.weight.flatten(1) @ tokens.mT + conv.bias[:, None]


def _to_tokens(conv: nn.Conv2d, rows: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product: (N, C, P) -> (N, P, O)."""
    assert conv.bias is not None
    return rows.mT @ conv.weight.flatten(1).t() + conv.bias
