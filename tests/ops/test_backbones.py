"""The transformer with taps, its lean form, and residual stages."""

from __future__ import annotations

import copy

import pytest
import torch
from gradients import saved_bytes

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.backbones import block_maps, block_tokens, make_vit, recompute_mlps


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def transformer():
    torch.manual_seed(0)
    vit = make_vit(16, 8, 16, 3, 2, (0, 1)).double().eval().requires_grad_(False)
    for parameter in vit.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return vit


def gradient(vit, tokens):
    tokens = tokens.clone().requires_grad_()
    return torch.autograd.grad(vit.blocks(tokens).sin().sum(), tokens)[0]


def test_tapped_blocks_are_those_of_a_whole_pass_and_later_blocks_are_not_run():
    vit, image, outputs = transformer(), random(2, 3, 16, 16), []
    for block in vit.blocks:
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output[:, 1:]))
    vit.forward_features(image)
    whole = list(outputs)
    outputs.clear()
    tokens = block_tokens(vit, image, (0, 1))
    assert len(outputs) == 2
    for number, each in enumerate(tokens):
        assert torch.equal(each, whole[number])
    maps = block_maps(vit, image, (0, 1))
    assert maps.shape == (2, 32, 2, 2)
    assert torch.equal(maps[:, :16, 0, 1], tokens[0][:, 1]) and torch.equal(maps[:, 16:, 1, 0], tokens[1][:, 2])


@pytest.mark.parametrize(
    ("width", "taps", "words"),
    [(20, (0,), "width: got 20"), (16, (2, 3), "taps"), (16, (1, 0), "taps"), (16, (), "taps")],
)
def test_arguments_that_do_not_fit(width, taps, words):
    with pytest.raises(InputError, match=words):
        make_vit(16, 8, width, 3, 8, taps)


def test_recomputed_mlps_are_equal_and_keep_a_fifth():
    plain = transformer()
    lean = copy.deepcopy(plain)
    recompute_mlps(lean)
    tokens = random(2, 5, 16)
    assert torch.equal(plain.blocks(tokens), lean.blocks(tokens))
    torch.testing.assert_close(gradient(lean, tokens), gradient(plain, tokens), rtol=0, atol=1e-13)

    def kept(block):
        # The copy belongs to the graph, so that its storage is no parameter and is counted.
        return saved_bytes(lambda: block.mlp(block.norm2(tokens.clone().requires_grad_())), [block])

    # (tokens, mean, deviation, 4 * width) and at most tokens alone.
    assert kept(plain.blocks[0]) >= 5 * tokens.nbytes and kept(lean.blocks[0]) <= tokens.nbytes


def test_recomputed_mlps_in_bfloat16_are_the_plain_ones():
    plain = transformer().float()
    lean = copy.deepcopy(plain)
    recompute_mlps(lean)
    tokens = random(2, 5, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gradient(plain, tokens), gradient(lean, tokens))
