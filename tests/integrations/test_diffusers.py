"""LatentLoss against formulas and plain decoding; with diffusers' own tiny models."""

from __future__ import annotations

import pytest
import torch

from pairs import make_pair
from sr_perceptual_loss import CriticLoss, InputError, NonFiniteError, RQILoss, SSIMPerceptualRatioLoss
from sr_perceptual_loss.integrations.diffusers import (
    LatentLoss,
    decode_latents,
    error_gain,
    predict_x0,
    to_unit_range,
)
from sr_perceptual_loss.losses.base import PairLoss

# Its import alone takes several seconds of CPU time: it brings transformers along.
diffusers = pytest.importorskip("diffusers", reason="extra 'diffusion' is not installed")


def make_vae(**changes):
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 4}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = diffusers.AutoencoderKL(**sizes, **kinds, **changes)
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae():
    return make_vae()


@pytest.fixture(scope="module")
def scheduler():
    return diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


@pytest.fixture
def batch(scheduler):
    """Clean latents, noise, x_t at four timesteps, and targets in [-1, 1] of twice the side."""
    generator = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(4, 4, 16, 16, generator=generator) * 0.2 for _ in range(2))
    timesteps = torch.tensor([10, 600, 200, 999])
    return x0, noise, scheduler.add_noise(x0, noise, timesteps), timesteps, make_pair(4, 32, 32)[1] * 2 - 1


class MeanValue(PairLoss):
    """Mean of sr: a loss whose value and gradient are known; counts what it was shown."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def _values(self, sr, hr):
        self.seen.append(sr.detach().clone())
        return sr.mean((1, 2, 3)), {"score": -sr.mean((1, 2, 3))}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_exact_prediction_gives_the_clean_latents(kind, scheduler, batch):
    x0, noise, noisy, timesteps, _ = batch
    prediction = {"epsilon": noise, "v_prediction": scheduler.get_velocity(x0, noise, timesteps), "sample": x0}[kind]
    found = predict_x0(prediction, noisy, timesteps, scheduler.alphas_cumprod, kind)
    torch.testing.assert_close(found, x0, rtol=0, atol=2e-5)


def test_half_precision_is_widened_before_the_division(scheduler, batch):
    _, noise, noisy, timesteps, _ = batch
    found = predict_x0(noise.half(), noisy.half(), timesteps, scheduler.alphas_cumprod)
    assert found.dtype == torch.float32
    exact = predict_x0(noise.half().double(), noisy.half().double(), timesteps, scheduler.alphas_cumprod)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("epsilon", [0.03, 0.23, 0.57, 1.62, 14.6]),
        ("v_prediction", [0.03, 0.22, 0.50, 0.85, 1.00]),
        ("sample", [1] * 5),
    ],
)
def test_error_gain_is_what_an_error_is_multiplied_by(kind, values, scheduler):
    timesteps = torch.tensor([0, 50, 200, 500, 999])
    gain = error_gain(scheduler.alphas_cumprod, timesteps, kind)
    torch.testing.assert_close(gain, torch.tensor(values, dtype=torch.float64), rtol=0.01, atol=0.005)
    x = torch.randn(5, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = (predict_x0(p, x, timesteps, scheduler.alphas_cumprod, kind) for p in (x, x + 0.1))
    torch.testing.assert_close((b - a).abs()[:, 0, 0, 0] / 0.1, gain)


def test_wrong_inputs_of_predict_x0(scheduler, batch):
    _, noise, noisy, timesteps, _ = batch
    alphas = scheduler.alphas_cumprod
    with pytest.raises(InputError, match=r"chunk\(2, dim=1\)"):
        predict_x0(torch.cat([noise, noise], 1), noisy, timesteps, alphas)
    with pytest.raises(InputError, match="expected 0 to 999"):
        predict_x0(noise, noisy, timesteps + 1, alphas)
    with pytest.raises(InputError, match="got 3 for 4 samples"):
        predict_x0(noise, noisy, timesteps[:3], alphas)
    with pytest.raises(InputError, match="flow matching"):
        predict_x0(noise, noisy, timesteps / 7, alphas)
    with pytest.raises(InputError, match="zero terminal SNR"):
        predict_x0(noise, noisy, timesteps, torch.cat([alphas[:-1], torch.zeros(1)]))


def gradient(vae, latents, **options):
    leaf = latents.clone().requires_grad_()
    image = decode_latents(vae, leaf, **options)
    return image.detach(), torch.autograd.grad((image * torch.linspace(-1, 1, image.shape[-1])).sum(), leaf)[0]


@pytest.mark.parametrize("checkpoint", ["none", "blocks", "decoder", "both"])
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_and_checkpoints_change_nothing(vae, batch, checkpoint, micro_batch):
    leaf = batch[0].clone().requires_grad_()
    plain = vae.decode(leaf / vae.config.scaling_factor).sample
    expected = torch.autograd.grad((plain * torch.linspace(-1, 1, plain.shape[-1])).sum(), leaf)[0]
    image, found = gradient(vae, batch[0], micro_batch=micro_batch, checkpoint=checkpoint)
    torch.testing.assert_close(image, plain.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert float(expected.abs().max()) > 0
    assert "forward" not in vars(vae.decoder.mid_block)


def saved_bytes(vae, latents, **options):
    """What is alive between forward and backward."""
    total = {}

    def pack(tensor):
        total[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        decode_latents(vae, latents.clone().requires_grad_(), **options)
    return sum(total.values())


def test_checkpoints_keep_less(vae, batch):
    kept = {c: saved_bytes(vae, batch[0], checkpoint=c) for c in ("none", "blocks", "decoder", "both")}
    assert kept["blocks"] < 0.5 * kept["none"]
    assert max(kept["decoder"], kept["both"]) < 0.1 * kept["none"]


def test_an_offloading_hook_on_a_block_survives(batch):
    own = make_vae()
    calls, block = [], own.decoder.mid_block
    inner = block.forward
    block.forward = hooked = lambda *a, **k: (calls.append(1), inner(*a, **k))[1]
    gradient(own, batch[0], checkpoint="blocks", micro_batch=4)
    assert block.forward is hooked and len(calls) == 2  # forward, and its recomputation


def test_scaling_shift_and_statistics(batch):
    z = batch[0]
    for changes, expected in (
        ({"scaling_factor": 0.5}, z / 0.5),
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, z / 0.5 + 0.25),
        (
            {"scaling_factor": 2.0, "latents_mean": [0.0, 1.0, 2.0, 3.0], "latents_std": [1.0, 2.0, 3.0, 4.0]},
            z / 2 * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1) + torch.tensor([0.0, 1, 2, 3]).view(4, 1, 1),
        ),
    ):
        own = make_vae(**changes)
        torch.testing.assert_close(decode_latents(own, z), own.decode(expected).sample, rtol=1e-5, atol=1e-5)


def test_decoder_in_bfloat16_gives_float32_images_and_gradients(batch):
    own = make_vae().to(torch.bfloat16)
    image, found = gradient(own, batch[0])
    exact, wanted = gradient(make_vae(), batch[0])
    assert image.dtype == found.dtype == torch.float32
    assert (image - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) > 0.98


def test_what_is_no_frozen_vae(vae):
    loose = make_vae()
    loose.encoder.requires_grad_(True)
    decode_latents(loose, torch.zeros(1, 4, 4, 4))
    loose.decoder.conv_in.weight.requires_grad_(True)
    with pytest.raises(InputError, match=r"'conv_in\.weight' of the decoder"):
        decode_latents(loose, torch.zeros(1, 4, 4, 4))
    with pytest.raises(InputError, match=r"accelerator\.unwrap_model"):
        LatentLoss(CriticLoss("haarpsi"), torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="checkpoint"):
        decode_latents(vae, torch.zeros(1, 4, 4, 4), checkpoint="reentrant")


def test_range_mapping_keeps_or_turns_gradients():
    x = torch.tensor([-1.5, -1.5, 0.0, 1.5, 1.5]).view(1, 1, 1, 5).requires_grad_()
    g = torch.tensor([2.0, -2.0, 2.0, 2.0, -2.0]).view(1, 1, 1, 5)
    keep = to_unit_range(x)
    torch.testing.assert_close(keep.flatten(), torch.tensor([-0.25, -0.25, 0.5, 1.25, 1.25]))
    torch.testing.assert_close(torch.autograd.grad(keep, x, g)[0], g / 2)
    inward = to_unit_range(x, "inward")
    torch.testing.assert_close(inward.flatten(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    # Descent moves against the gradient: what would push further out is dropped.
    torch.testing.assert_close(torch.autograd.grad(inward, x, g)[0].flatten(), torch.tensor([0.0, -1, 1, 1, 0]))


@pytest.mark.fault(67)
def test_diffusers_equals_the_sum_written_out(vae, scheduler, batch):
    _, noise, noisy, timesteps, target = batch
    loss = CriticLoss("haarpsi", loss_weight=0.3)
    latent = LatentLoss(loss, vae, scheduler=scheduler, max_timestep=250)
    prediction = (noise * 1.1).requires_grad_()
    found = latent(prediction, noisy, timesteps, target)
    (got,) = torch.autograd.grad(found, prediction)
    total = 0.0
    for i in (0, 2):  # t = 10 and 200
        kept = scheduler.alphas_cumprod[timesteps[i]]
        clean = (noisy[i : i + 1] - (1 - kept).sqrt() * prediction[i : i + 1]) / kept.sqrt()
        image = vae.decode(clean / vae.config.scaling_factor).sample * 0.5 + 0.5
        total = total - 0.3 / 4 * loss.critic.score(image, target[i : i + 1] * 0.5 + 0.5).sum()
    (wanted,) = torch.autograd.grad(total, prediction)
    torch.testing.assert_close(found, total)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7 * float(wanted.abs().max() + 1))
    assert float(got[0].abs().max()) > 0 and float(got[1].abs().max()) == float(got[3].abs().max()) == 0
    assert float(latent.terms["scored_share"]) == 0.5 and float(latent.terms["loss"]) == pytest.approx(
        float(found.detach())
    )
    assert all(p.grad is None for p in vae.parameters())


def test_a_sample_weighs_the_same_whatever_its_batch_mates(vae, scheduler, batch):
    _, noise, noisy, timesteps, target = batch
    latent = LatentLoss(CriticLoss("haarpsi"), vae, scheduler=scheduler)
    prediction = noise.clone().requires_grad_()
    together = torch.autograd.grad(latent(prediction, noisy, timesteps, target), prediction)[0][0] * 4
    alone = noise[:1].clone().requires_grad_()
    (single,) = torch.autograd.grad(latent(alone, noisy[:1], timesteps[:1], target[:1]), alone)
    torch.testing.assert_close(together, single[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("weighting", ["alpha", "inverse_gain"])
def test_weightings(vae, scheduler, batch, weighting):
    _, noise, noisy, timesteps, target = batch
    loss = MeanValue(reduction="none")
    latent = LatentLoss(loss, vae, scheduler=scheduler, max_timestep=700, weighting=weighting)
    value = latent(noise, noisy, timesteps, target)
    kept = scheduler.alphas_cumprod[timesteps[:3]].double()
    weights = kept if weighting == "alpha" else (kept / (1 - kept)).sqrt().clamp(max=1)
    means = loss.seen[0].double().mean((1, 2, 3))
    assert float(value) == pytest.approx(float((weights * means).sum() / 4), rel=1e-5)
    assert latent.weights(timesteps)[3] == 0 and len(loss.seen[0]) == 3


class NoDecode(torch.nn.Module):
    """A VAE that must not be called."""

    config = None

    def decode(self, z):
        raise AssertionError("decoded although nothing is scored")


def test_nothing_is_decoded_where_the_weight_is_zero(scheduler, batch):
    _, noise, noisy, timesteps, target = batch
    broken = (noise * torch.nan).requires_grad_()
    above = LatentLoss(CriticLoss("haarpsi"), NoDecode(), scheduler=scheduler, max_timestep=5)
    off = LatentLoss(CriticLoss("haarpsi", schedule={"start": 100}), NoDecode(), scheduler=scheduler)
    off.step(3)
    for latent in (above, off):
        value = latent(broken, noisy, timesteps, target)
        assert float(value.detach()) == 0 and set(latent.terms) == {"loss", "score", "scored_share"}
        assert float(latent.terms["scored_share"]) == 0
        (got,) = torch.autograd.grad(value, broken)
        assert float(got.abs().max()) == 0
    assert float(above.from_latents(broken.detach(), target, weights=torch.zeros(4))) == 0


def test_schedule_and_crop_boxes_follow_the_optimizer_step(vae, batch):
    latent = LatentLoss(CriticLoss("haarpsi", crops=16, schedule={"start": 2}), vae)
    values = []
    for micro_step in range(8):
        latent.step(micro_step // 2)  # accumulation over 2
        values.append(float(latent.from_latents(batch[0], batch[4])))
    assert values[:4] == [0.0] * 4
    assert values[4] == values[5] != values[6] == values[7]


def test_with_rqi_and_with_ratio_loss(vae, scheduler, batch):
    _, noise, noisy, timesteps, target = batch
    torch.manual_seed(0)
    rqi = RQILoss("tiny_rqi_topiq", weights=None)
    ratio = SSIMPerceptualRatioLoss("haarpsi", alpha=0.5, beta=0.5)
    for loss, key in ((rqi, "over_gt_rate"), (ratio, "lambda")):
        latent = LatentLoss(loss, vae, scheduler=scheduler, checkpoint="both")
        latent.step(0)
        prediction = noise.clone().requires_grad_()
        latent(prediction, noisy, timesteps, target).backward()
        assert float(prediction.grad[0].abs().max()) > 0 and float(prediction.grad[1].abs().max()) == 0
        assert key in latent.terms and float(latent.terms["scored_share"]) == 0.5


@pytest.mark.fault(67)
def test_diffusers_accelerate_accumulation_equals_one_large_batch(vae, scheduler, batch):
    accelerate = pytest.importorskip("accelerate", reason="extra 'train' is not installed")
    from accelerate.state import AcceleratorState

    _, noise, noisy, _, target = batch
    timesteps = torch.tensor([10, 50, 200, 900])

    def gradients(accumulate):
        AcceleratorState._reset_state(True)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        torch.manual_seed(0)
        net = torch.nn.Conv2d(4, 4, 1)
        net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.0))
        latent, step, steps = LatentLoss(CriticLoss("haarpsi"), vae, scheduler=scheduler), 0, []
        for part in torch.arange(4).chunk(accumulate):
            with accelerator.accumulate(net):
                latent.step(step)
                steps.append(step)
                accelerator.backward(latent(net(noise[part]), noisy[part], timesteps[part], target[part]))
                kept = net.weight.grad.clone()
                optimizer.step()
                optimizer.zero_grad()
            step += accelerator.sync_gradients
        AcceleratorState._reset_state(True)
        return kept, steps, step

    whole, _, _ = gradients(1)
    parts, steps, final = gradients(2)
    assert steps == [0, 0] and final == 1
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


def test_construction_errors(vae, scheduler):
    haarpsi = CriticLoss("haarpsi")
    with pytest.raises(InputError, match="reduction='none'"):
        LatentLoss(haarpsi, vae, scheduler=scheduler, weighting="alpha")
    with pytest.raises(InputError, match="'sum'"):
        LatentLoss(CriticLoss("haarpsi", reduction="sum"), vae)
    with pytest.raises(InputError, match="expected a loss of this package"):
        LatentLoss(torch.nn.L1Loss(), vae)
    with pytest.raises(InputError, match="flow matching"):
        LatentLoss(haarpsi, vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(InputError, match="max_timestep"):
        LatentLoss(haarpsi, vae, max_timestep=-1)
    velocity = diffusers.DDPMScheduler(prediction_type="v_prediction")
    assert LatentLoss(haarpsi, vae, scheduler=velocity).prediction_type == "v_prediction"


def test_call_errors(vae, scheduler, batch):
    x0, noise, noisy, timesteps, target = batch
    with pytest.raises(InputError, match="scheduler=noise_scheduler"):
        LatentLoss(CriticLoss("haarpsi"), vae)(noise, noisy, timesteps, target)
    latent = LatentLoss(CriticLoss("haarpsi"), vae, scheduler=scheduler)
    with pytest.raises(InputError, match="differ in shape"):
        latent(noise, noisy, timesteps, target[:, :, :16, :16])
    with pytest.raises(InputError, match="equal or 0"):
        latent.from_latents(x0, target, weights=torch.tensor([1.0, 0.0, 0.5, 0.0]))
    with pytest.raises(NonFiniteError, match="haarpsi"):
        latent.from_latents(x0 * torch.nan, target)
    half = LatentLoss(CriticLoss("haarpsi"), make_vae().half())
    with pytest.raises(NonFiniteError, match=r"VAE is in torch\.float16"):
        half.from_latents(x0 * 1e6, target)


def test_ranks_do_not_wait_for_a_rank_that_judges_nothing(scheduler, batch, monkeypatch):
    _, noise, noisy, _, target = batch
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    high = torch.full((4,), 900)
    balanced = LatentLoss(SSIMPerceptualRatioLoss("haarpsi"), NoDecode(), scheduler=scheduler)
    with pytest.raises(InputError, match="the others would wait for ever"):
        balanced(noise, noisy, high, target)
    fixed = SSIMPerceptualRatioLoss("haarpsi", loss_balance="none")
    assert float(LatentLoss(fixed, NoDecode(), scheduler=scheduler)(noise, noisy, high, target)) == 0


def test_target_in_the_wrong_range_is_found_once(vae, batch):
    latent = LatentLoss(CriticLoss("haarpsi"), vae)
    for _ in range(2):
        latent.from_latents(batch[0], batch[4] * 0.5 + 0.5)
    with pytest.raises(InputError, match="target_range='unit'"):
        latent.from_latents(batch[0], batch[4] * 0.5 + 0.5)
    right = LatentLoss(CriticLoss("haarpsi"), vae)
    right.from_latents(batch[0], batch[4])
    signed = float(right.terms["score"])
    for _ in range(5):
        right.from_latents(batch[0], batch[4].clamp(min=0))  # bright pictures after a dark one are fine
    unit = LatentLoss(CriticLoss("haarpsi"), vae, target_range="unit")
    unit.from_latents(batch[0], batch[4] * 0.5 + 0.5)
    assert float(unit.terms["score"]) == pytest.approx(signed, rel=1e-5)


def test_images_that_the_host_decoded(vae, batch):
    latent = LatentLoss(CriticLoss("haarpsi"), vae)
    a = latent.from_latents(batch[0], batch[4])
    b = latent.from_images(vae.decode(batch[0] / vae.config.scaling_factor).sample, batch[4])
    torch.testing.assert_close(a, b)
    assert set(latent.terms) == {"loss", "score", "scored_share"} and float(latent.terms["scored_share"]) == 1


def test_lora_training_leaves_base_and_vae_alone(vae, scheduler, batch):
    """The contract of PiSA-SR's second stage: of two adapters one learns, everything else keeps its bits."""
    peft = pytest.importorskip("peft", reason="extra 'diffusion' is not installed")
    x0, _, _, _, target = batch
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).requires_grad_(False)
    for name in ("pixel", "semantic"):
        unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v", "conv_out"]), adapter_name=name)
    unet.set_adapters(["pixel", "semantic"])
    for key, parameter in unet.named_parameters():
        parameter.requires_grad_(".semantic." in key)
    before = {k: v.clone() for module in (unet, vae) for k, v in module.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in unet.parameters() if p.requires_grad], lr=1e-2)
    latent, scores = LatentLoss(CriticLoss("haarpsi"), vae, checkpoint="none"), []
    for _ in range(5):
        out = x0 - unet(x0, torch.ones(4, dtype=torch.long), encoder_hidden_states=torch.ones(4, 2, 8)).sample
        optimizer.zero_grad()
        latent.from_latents(out, target).backward()
        optimizer.step()
        scores.append(float(latent.terms["score"]))
    after = {k: v for module in (unet, vae) for k, v in module.state_dict().items()}
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all(".semantic." in k for k in changed)
    assert scores[-1] > scores[0]
