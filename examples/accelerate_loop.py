"""A critic in an Accelerate loop: mixed precision, accumulation and several processes; the critic is not prepared.

    accelerate launch examples/accelerate_loop.py --data PHOTOGRAPHS --test SET14      # folders

Only what is trained goes through `prepare`. The iteration is counted where `sync_gradients` is true, that is, after an
optimizer step, so schedules and crop boxes are the same for all micro-batches of a step and on all processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from small_sr import Crops, SmallSR, arguments, image_pairs, measure, photographs, restore, save_comparison, table
from torch import nn
from torch.utils.data import DataLoader

from sr_perceptual_loss import CriticLoss


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    parser = arguments(__doc__, "accelerate")
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches of batch / accumulate images")
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    options = parser.parse_args(argv)
    half, micro = options.iterations // 2, max(1, options.batch // options.accumulate)
    accelerator = Accelerator(gradient_accumulation_steps=options.accumulate, mixed_precision=options.mixed_precision)
    torch.manual_seed(0)
    network = SmallSR()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    length = options.iterations * options.accumulate * micro * accelerator.num_processes
    loader = DataLoader(Crops(photographs(options.data), length, options.crop), micro)
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    critic = CriticLoss(
        options.critic, weights=options.weights, loss_weight=options.loss_weight, schedule={"start": half, "ramp": 50}
    ).to(accelerator.device)
    pixel, pairs, iteration, images = nn.L1Loss(), image_pairs(options.test), 0, {}
    for lr, hr in loader:
        with accelerator.accumulate(network):
            critic.step(iteration)
            sr = network(lr)
            l1 = pixel(sr, hr)
            accelerator.backward(l1 + critic(sr, hr))
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        iteration += 1
        if iteration % 50 == 0:
            terms = "  ".join(f"{name} {float(value):.4f}" for name, value in critic.terms.items())
            accelerator.print(f"iteration {iteration}  l1 {l1.item():.4f}  {options.critic}: {terms}", flush=True)
        if iteration in (half, options.iterations):
            stage = "before" if iteration == half else "after"
            images[stage] = restore(accelerator.unwrap_model(network), pairs)
    results = {stage: measure(shown, pairs) for stage, shown in images.items()}
    accelerator.print(table(results))
    if accelerator.is_main_process:
        name, lr, hr = pairs[0]
        shown = {stage: restored[name] for stage, restored in images.items()}
        save_comparison(options.out / "accelerate.png", {"LR": lr, **shown, "HR": hr})
    return results


if __name__ == "__main__":
    main()
