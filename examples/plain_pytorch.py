"""A critic in a plain PyTorch loop: first the pixel loss, then both, with a checkpoint that continues exactly.

    python examples/plain_pytorch.py --data PHOTOGRAPHS --test SET14

The names in capitals are folders (docs/data.md). The same command continues an interrupted run.
The critic needs five lines; they are marked with (1) ... (5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from small_sr import Crops, SmallSR, arguments, image_pairs, measure, photographs, restore, save_comparison, table
from torch import nn
from torch.utils.data import DataLoader, Subset

from sr_perceptual_loss import CriticLoss  # (1)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    options = arguments(__doc__, "plain_pytorch").parse_args(argv)
    half, out = options.iterations // 2, options.out
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = SmallSR().to(device)
    pixel = nn.L1Loss()
    critic = CriticLoss(  # (2)
        options.critic, weights=options.weights, loss_weight=options.loss_weight, schedule={"start": half, "ramp": 50}
    ).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)  # the critic adds no parameters
    pairs, start, results, images = image_pairs(options.test), 0, {}, {}
    checkpoint = out / "state.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        start, results, images = state["iteration"], state["results"], state["images"]
    crops = Crops(photographs(options.data), options.iterations * options.batch, options.crop)
    rest = Subset(crops, range(start * options.batch, len(crops)))
    for iteration, (lr, hr) in enumerate(DataLoader(rest, options.batch), start):
        sr, hr = network(lr.to(device)), hr.to(device)
        critic.step(iteration)  # (3) schedules and crop boxes follow the global iteration
        l1 = pixel(sr, hr)
        loss = l1 + critic(sr, hr)  # (4) sr, hr: RGB in [0, 1], in that order
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if iteration % 50 == 0 or iteration == options.iterations - 1:
            terms = "  ".join(f"{name} {float(value):.4f}" for name, value in critic.terms.items())  # (5) for logs
            print(f"iteration {iteration}  l1 {l1.item():.4f}  {options.critic}: {terms}", flush=True)
        if iteration + 1 in (half, options.iterations):
            stage = "before" if iteration + 1 == half else "after"
            images[stage] = restore(network, pairs)
            results[stage] = measure(images[stage], pairs)
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration + 1}
            torch.save({**state, "results": results, "images": images}, checkpoint)
    print(table(results))
    name, lr, hr = pairs[0]
    save_comparison(
        out / "plain_pytorch.png",
        {"LR": lr, "before": images["before"][name], "after": images["after"][name], "HR": hr},
    )
    return results


if __name__ == "__main__":
    main()
