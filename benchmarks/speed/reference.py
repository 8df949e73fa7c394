"""The critics as published, as the reference of every measurement: nothing folded, skipped, merged or reused.

Each form shares the modules of the critic it was made from and computes the same score. The deformable convolutions are
torchvision's operator. What the published code computes and does not use (transformer blocks after the last one used,
unused residual stages, a second set of equal offsets) is computed here too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from sr_perceptual_loss.critics.base import Critic, TargetFeatures, normalise
from sr_perceptual_loss.critics.efficient_pban import network as efficient_pban
from sr_perceptual_loss.critics.rqi_ahiq import network as rqi_ahiq
from sr_perceptual_loss.critics.rqi_maniqa import network as rqi_maniqa
from sr_perceptual_loss.critics.rqi_topiq import network as rqi_topiq
from sr_perceptual_loss.errors import InputError

__all__ = ["has_reference_form", "reference_form"]


def _published(image: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The deformable convolution of torchvision, stride 1, "same"."""
    result: Tensor = deform_conv2d(image, offset, weight, bias, padding=weight.shape[-1] // 2)
    return result


class ReferencePBAN(efficient_pban.EfficientPBAN):
    """Efficient-PBAN with one convolution per query, key, value and offset, and one operator call per branch."""

    def _published_trunk(self, image: Tensor, constants: efficient_pban.Constants) -> Tensor:
        features: Tensor = self.layer2_1(self.stem(normalise(image, *constants)))
        return features

    @staticmethod
    def _query(branches: efficient_pban.MultiBranchDeformConv, x: Tensor) -> Tensor:
        parts = zip(branches.param_generators, branches.weights, branches.biases, strict=True)
        merged: Tensor = branches.merge_conv(torch.cat([_published(x, o(x), w, b) for o, w, b in parts], dim=1))
        return merged

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        features, block = self._published_trunk(hr, self.hr_constants), self.block2
        return features, self._query(block.br2, block.q2(features)), block.k2(features), block.v2(features)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        block = self.block2
        reference, q2, k2, v2 = target
        distorted = self._published_trunk(sr, self.sr_constants)
        q1, k1, v1 = self._query(block.br1, block.q1(distorted)), block.k1(distorted), block.v1(distorted)
        x1 = block.after_block1(block.SE(self._attend(q1, k2, v1)) + distorted)
        x2 = block.after_block2(block.SE(self._attend(q2, k1, v2)) + reference)
        x1, x2 = (F.adaptive_avg_pool2d(side, efficient_pban.POOL).flatten(1) for side in (x1, x2))
        x1, x2 = F.relu(self.fc21(F.relu(self.fc11(x1)))), F.relu(self.fc22(F.relu(self.fc12(x2))))
        score: Tensor = self.out(self.fc(torch.cat([x1, x2], dim=1))).squeeze(1)
        return score

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mean of attention along rows and along columns."""

        def lines(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            logits = rearrange(q, "n c h i -> n h i c") @ rearrange(k, "n c h j -> n h c j")
            spread = logits.std() if self.block2.std == "batch" else logits.std(dim=(1, 2, 3), keepdim=True)
            attention = (logits / (spread + efficient_pban.STD_EPS)).softmax(-1)
            return rearrange(rearrange(v, "n c h i -> n h c i") @ attention, "n h c j -> n c h j")

        return 0.5 * (lines(query, key, value) + lines(query.mT, key.mT, value.mT).mT)


def _all_blocks(vit: Any, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """Outputs of all blocks, and of the classifier, as hooks on a whole forward pass give them."""
    tokens = vit.patch_embed(image)
    tokens = vit.norm_pre(torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + vit.pos_embed)
    outputs = []
    for block in vit.blocks:
        tokens = block(tokens)
        outputs.append(tokens)
    return outputs, vit.forward_head(vit.norm(tokens))


def _tapped_maps(critic: Any, image: Tensor) -> Tensor:
    outputs, _unused = _all_blocks(critic.vit, image)
    maps = [outputs[tap][:, 1:] for tap in critic.taps]
    return rearrange(torch.cat(maps, dim=2), "n (h w) c -> n c h w", h=critic.vit.patch_embed.grid_size[0])


class ReferenceAhiq(rqi_ahiq.RQIAhiq):
    """AHIQ with all transformer blocks and residual stages run, and the offsets computed for each image."""

    def _published_maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        image = normalise(image, *rqi_ahiq.NORMALISATIONS[self.config["normalisation"]])
        net: Any = self.resnet50
        x = net.maxpool(net.relu(net.bn1(net.conv1(image))))
        outputs = []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in stage:
                x = block(x)
                outputs.append(x)
        _unused = net.fc(x.mean((2, 3)))
        return _tapped_maps(self, image), torch.cat(outputs[: len(net.layer1)], dim=1)

    def _published_features(self, vit_map: Tensor, cnn_map: Tensor, guide: Tensor) -> Tensor:
        net = self.deform_net
        offset = net.conv_offset(F.interpolate(guide, size=cnn_map.shape[2:], mode="nearest"))
        sampled = net.conv1(_published(cnn_map, offset, net.deform.weight, net.deform.bias))
        return torch.cat([vit_map, sampled], dim=1)

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        vit_map, cnn_map = self._published_maps(hr)
        return vit_map, self._published_features(vit_map, cnn_map, vit_map)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        guide, reference = target
        distorted = self._published_features(*self._published_maps(sr), guide)
        head = self.regressor
        a, b = head.down_channel(distorted), head.down_channel(reference)
        x = head.conv1(head.feat_smoothing(torch.cat([a - b, a, b], dim=1)))
        score, weight = head.conv(x), head.conv_attent(x)
        pooled: Tensor = (score * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
        return pooled


class ReferenceManiqa(rqi_maniqa.RQIManiqa):
    """MANIQA with all transformer blocks run and the channel attention written out."""

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return (_tapped_maps(self, normalise(hr, rqi_maniqa.HALF, rqi_maniqa.HALF)),)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        (reference,) = target
        distorted = _tapped_maps(self, normalise(sr, rqi_maniqa.HALF, rqi_maniqa.HALF))
        parts = [self.conv0_x1(distorted), self.conv0_x1(reference), self.conv0_x(distorted - reference)]
        x = self.swintransformer1(self.conv1(self._channels(self.tablock1, torch.cat(parts, dim=1))))
        x = self.swintransformer2(self.conv2(self._channels(self.tablock2, x)))
        tokens = rearrange(x, "n c h w -> n (h w) c")
        score, weight = self.fc_score(tokens), self.fc_weight(tokens)
        pooled: Tensor = (score * weight).sum((1, 2)) / (weight.sum((1, 2)) + rqi_maniqa.POOL_EPS)
        return pooled

    @staticmethod
    def _channels(blocks: nn.Module, maps: Tensor) -> Tensor:
        x = maps.flatten(2)
        for block in blocks.children():
            part: Any = block
            attention = (part.c_q(x) @ part.c_k(x).mT * part.scale).softmax(-1)
            x = x + (attention @ part.c_v(x)).mT.reshape(x.shape)
        return x.view_as(maps)


class ReferenceTopiq(rqi_topiq.RQITopiq):
    """TOPIQ with the gated maps concatenated at full size before they are pooled."""

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return self._published_levels(hr)

    def _published_levels(self, image: Tensor) -> TargetFeatures:
        net = self.semantic_model
        x = net.act1(net.bn1(net.conv1(normalise(image, *rqi_topiq.IMAGENET))))
        levels, x = [x], net.maxpool(x)
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            levels.append(x)
        return tuple(levels)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        distorted = self._published_levels(sr)
        grid = (distorted[-1].shape[2], distorted[-1].shape[3])
        position = self._position(*grid)
        tokens = [
            self._tokens(level, *maps, position) for level, maps in enumerate(zip(distorted, target, strict=True))
        ]
        z = tokens[-1]
        for cross, memory in zip(self.attn_blks, reversed(tokens[:-1]), strict=True):
            z = cross(z, memory)
        scores: Tensor = self.score_linear(self.attn_pool(z).mean(0)).squeeze(1)
        return scores

    def _tokens(self, level: int, distorted: Tensor, reference: Tensor, position: Tensor) -> Tensor:
        distance = ((distorted - reference).square() + rqi_topiq.DISTANCE_EPS).sqrt()
        maps = torch.cat([distorted, reference, distance], dim=1) * self.weight_pool[level](distance)
        if level < rqi_topiq.LEVELS - 1:
            maps = F.adaptive_avg_pool2d(maps, (position.shape[2], position.shape[3]))
        embedded = self.dim_reduce[level](maps) + position
        tokens: Tensor = self.sa_attn_blks[level](rearrange(embedded, "n c h w -> (h w) n c"))
        return tokens


FORMS: dict[type[Critic], type[Critic]] = {
    efficient_pban.EfficientPBAN: ReferencePBAN,
    rqi_ahiq.RQIAhiq: ReferenceAhiq,
    rqi_maniqa.RQIManiqa: ReferenceManiqa,
    rqi_topiq.RQITopiq: ReferenceTopiq,
}


def has_reference_form(critic: Critic) -> bool:
    """Whether :func:`reference_form` knows this critic; a formula has no reference form."""
    return isinstance(critic, tuple(FORMS))


def reference_form(critic: Critic) -> Critic:
    """The published formulation of a critic, over the same modules: moving or casting one moves the other.

    Args:
        critic: a network critic as ``create_critic`` returns it, in eval mode (not a result of ``inference_form``).

    Returns:
        A critic that shares the modules of ``critic``; ``encode_target`` of one is not for the other.

    Raises:
        InputError: no such form, or the critic is being trained (the forms have no dropout).
    """
    if critic.training:
        raise InputError(f"reference_form: got {critic.card.name} in train mode, expected eval mode; call .eval().")
    for cls, form in FORMS.items():
        if isinstance(critic, cls):
            copy = form.__new__(form)
            copy.__dict__.update(critic.__dict__)
            copy.kernels = "reference"
            return copy
    raise InputError(f"reference_form: got '{critic.card.name}', which has no reference formulation.")
