"""LINF's own network and wrappers through our adapter, on a CPU; the first log of docs/hosts/linf.md.

    python benchmarks/hosts/linf.py --clone <clone of LINF> --data DIR [--path <folder with what LINF imports>]

LINF writes `.cuda()` into its code, so `Tensor.cuda` is made a no-op. The flow starts from random weights and has no
NLL or pixel loss here: this shows that the adapter runs on LINF's own parts, and that gradients arrive.
"""

from __future__ import annotations

import sys
import types

import torch
from runs import parser, photographs
from torch import Tensor

from sr_perceptual_loss import CriticLoss, InputError, SSIMLoss
from sr_perceptual_loss.integrations import linf

BATCH, SIDE, PHOTOGRAPHS = 4, 48, 8


def batch(
    datasets: types.ModuleType, images: list[Tensor], wrapper: str, size: int, **args: object
) -> dict[str, Tensor]:
    """A batch of one of LINF's wrappers."""
    data = datasets.make({"name": wrapper, "args": args}, args={"dataset": images})
    return torch.utils.data.default_collate([data[i] for i in range(size)])


def normalised(image: Tensor) -> Tensor:
    """LINF's range."""
    return (image - 0.5) / 0.5


def run(models: types.ModuleType, datasets: types.ModuleType, images: list[Tensor], patch: int, steps: int) -> None:
    """Some steps with the image losses alone, a refusal, and our wrapper."""
    torch.manual_seed(0)
    encoder = {"name": "edsr-baseline", "args": {"no_upsampling": True, "n_resblocks": 2, "n_feats": 16}}
    flow = {"name": "flow", "args": {"name": "flow"}}
    args = {"encoder_spec": encoder, "imnet_spec": flow, "flow_layers": 3, "num_layer": 2, "hidden_dim": 32}
    suffix = "-patch" if patch else ""
    model = models.make({"name": f"linf{suffix}", "args": {**args, **({"patch_size": patch} if patch else {})}})
    losses = {"haarpsi": CriticLoss("haarpsi", loss_weight=0.2), "ssim": SSIMLoss(loss_weight=0.2)}
    perceptual = linf.LINFPerceptual(losses, patch=patch)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    wrapper = f"sr-implicit-downsampled-fast-crop{suffix}"
    for step in range(steps + 1):
        data = batch(datasets, images, wrapper, BATCH, inp_size=SIDE, scale_max=4)
        lr = normalised(data["inp"])
        perceptual.step(step)
        loss = perceptual(model, lr, model("gen_feat", inp=lr), data)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            print(wrapper, step, {k: round(float(v), 4) for k, v in perceptual.terms.items()}, flush=True)
    data = batch(datasets, images, "sr-implicit-downsampled-fast", 2, inp_size=SIDE, scale_max=4)
    lr = normalised(data["inp"])
    try:
        perceptual(model, lr, model("gen_feat", inp=lr), {**data, "interpolate_coord": data["coord"]})
    except InputError as error:
        print("refused:", str(error)[:90])
    else:
        raise SystemExit("scattered pixels were not refused")
    if not patch:
        data = batch(datasets, images, "srpl-crop", 2, inp_size=24, out_size=64, scale_min=3, scale_max=4)
        lr = normalised(data["inp"])
        print("srpl-crop through LINF:", float(perceptual(model, lr, model("gen_feat", inp=lr), data).detach()))


def main() -> None:
    given = parser(__doc__, 30).parse_args()
    torch.set_num_threads(1)
    sys.path[:0] = [str(p.resolve()) for p in (given.clone, given.path) if p]
    torch.Tensor.cuda = lambda self, *_, **__: self
    for name in ("imageio", "lmdb"):  # LINF imports them for data sets that are not used here
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = types.ModuleType(name)
    import datasets
    import models

    linf.register()
    print("srpl-crop registered:", "srpl-crop" in datasets.datasets.datasets)
    images = photographs(given.data, PHOTOGRAPHS)
    for patch in (0, 3):
        run(models, datasets, images, patch, given.iterations)


if __name__ == "__main__":
    main()
