"""A small arbitrary-scale conditional flow with the interface of LINF, fine-tuned with a critic on its samples.

    python examples/linf_flow.py --data PHOTOGRAPHS --test SET5      # folders

Stage one is NLL + pixel loss, stage two adds the critic on a sample of temperature 0.8, as LINF adds VGG. One set of
weights serves every scale. Own code; for LINF itself, see docs/hosts/linf.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from small_sr import SCALE, arguments, image_pairs, measure, photographs, save_comparison, table
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sr_perceptual_loss import CriticLoss
from sr_perceptual_loss.integrations.linf import CropPairs, LINFPerceptual, grid_coordinates


class SmallFlow(nn.Module):
    """Per pixel: z -> RGB residual by rotations and affine steps whose numbers come from features and position."""

    def __init__(self, width: int = 32, depth: int = 4, steps: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.numbers = nn.Sequential(nn.Conv2d(width + 4, 2 * width, 1), nn.ReLU(), nn.Conv2d(2 * width, 6 * steps, 1))
        nn.init.zeros_(self.numbers[-1].weight)
        nn.init.zeros_(self.numbers[-1].bias)
        generator = torch.Generator().manual_seed(0)
        turns = [torch.linalg.qr(torch.randn(3, 3, generator=generator))[0] for _ in range(steps)]
        self.register_buffer("turns", torch.stack(turns))

    def _conditions(self, inp: Tensor, feat: Tensor, coord: Tensor, cell: Tensor) -> tuple[Tensor, list[Tensor]]:
        where = coord.flip(-1)
        base = F.grid_sample(inp, where, mode="bicubic", padding_mode="border", align_corners=False)
        local = F.grid_sample(feat, where, mode="bilinear", padding_mode="border", align_corners=False)
        sides = coord.new_tensor(feat.shape[-2:])
        within = ((coord + 1) * sides / 2 % 1 - 0.5).permute(0, 3, 1, 2)
        size = (cell * sides)[:, :, None, None].expand(-1, -1, *coord.shape[1:3])
        return base, list(self.numbers(torch.cat([local, within, size], 1)).chunk(len(self.turns), 1))

    def forward(self, op: str, inp: Tensor | None = None, feat: Tensor | None = None, coord: Tensor | None = None,
                cell: Tensor | None = None, gt: Tensor | None = None, temperature: float = 0.0) -> Tensor:  # fmt: skip
        """LINF's operations: gen_feat, query_log_p, query_rgb; images in its range [-1, 1]."""
        if op == "gen_feat":
            return self.encoder(inp)
        base, steps = self._conditions(inp, feat, coord, cell)
        if op == "query_log_p":
            z, log_p = gt - base, 0.0
            for turn, numbers in zip(self.turns, steps, strict=True):
                scale, shift = (torch.tanh(numbers[:, :3]) * 2 + 2), numbers[:, 3:]
                z = torch.einsum("ij,njhw->nihw", turn, z * scale.exp() / math.e + shift)
                log_p = log_p + (scale - 1).sum(1)
            return log_p - 0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
        z = temperature * torch.randn_like(base)
        for turn, numbers in zip(reversed(self.turns), reversed(steps), strict=True):
            scale, shift = (torch.tanh(numbers[:, :3]) * 2 + 2), numbers[:, 3:]
            z = (torch.einsum("ji,njhw->nihw", turn, z) - shift) * math.e / scale.exp()
        return base + z


def query(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(coord, cell) of a whole image of that size."""
    return grid_coordinates(*size)[None], torch.tensor([[2 / size[0], 2 / size[1]]])


@torch.no_grad()
def enlarge(network: nn.Module, lr: Tensor, size: tuple[int, int], temperature: float = 0.0) -> Tensor:
    """(1, 3, h, w) -> (1, 3, *size), in 8-bit steps."""
    inp = lr * 2 - 1
    coord, cell = query(size)
    torch.manual_seed(0)
    pred = network("query_rgb", inp=inp, feat=network("gen_feat", inp=inp), coord=coord, cell=cell,
                   temperature=temperature)  # fmt: skip
    return ((pred * 0.5 + 0.5).clamp(0, 1) * 255).round() / 255


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    options = arguments(__doc__, "linf").parse_args(argv)
    half = options.iterations // 2
    torch.manual_seed(0)
    network, pixel = SmallFlow(), nn.L1Loss()
    inp_size = options.crop // SCALE
    crops = CropPairs(photographs(options.data), inp_size, inp_size * 2, scale_min=2, scale_max=SCALE, augment=True)
    order = torch.randint(len(crops), (options.iterations * options.batch,)).tolist()
    loader = DataLoader(crops, options.batch, sampler=order)
    critic = CriticLoss(
        options.critic, weights=options.weights, loss_weight=options.loss_weight, schedule={"start": half, "ramp": 50}
    )
    perceptual = LINFPerceptual({options.critic: critic}, sub=0.5, div=0.5, temperature=0.8)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    pairs, results, shown = image_pairs(options.test), {}, {}
    for iteration, batch in enumerate(loader):
        inp, gt = batch["inp"] * 2 - 1, batch["gt"] * 2 - 1
        feat = network("gen_feat", inp=inp)
        where = {"inp": inp, "feat": feat, "coord": batch["coord"], "cell": batch["cell"]}
        nll = -network("query_log_p", gt=gt, **where).mean()
        l1 = pixel(network("query_rgb", **where), gt)
        perceptual.step(iteration)
        loss = 5e-4 * nll + l1 + perceptual(network, inp, feat, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if iteration % 50 == 0 or iteration == options.iterations - 1:
            terms = "  ".join(f"{name} {float(value):.4f}" for name, value in perceptual.terms.items())
            print(f"iteration {iteration}  nll {nll.item():.3f}  pixel {l1.item():.4f}  {terms}", flush=True)
        if iteration + 1 in (half, options.iterations):
            stage = "before" if iteration + 1 == half else "after"
            for temperature in (0.0, 0.8):
                images = {name: enlarge(network, lr, tuple(hr.shape[-2:]), temperature) for name, lr, hr in pairs}
                results[f"{stage}, t={temperature}"] = measure(images, pairs)
            shown[stage] = images[pairs[0][0]]
    print(table(results))
    save_comparison(options.out / "linf.png", {"LR": pairs[0][1], **shown, "HR": pairs[0][2]})
    return results


if __name__ == "__main__":
    main()
