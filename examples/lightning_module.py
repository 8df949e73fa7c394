"""A critic in a Lightning module: not in the optimizer, not in the checkpoint, not changed by `model.train()`.

    pip install lightning
    python examples/lightning_module.py --data PHOTOGRAPHS --test SET14      # folders

`precision="bf16-mixed"`, gradient accumulation and several devices need nothing more: critics compute in float32, and
`self.global_step` counts optimizer steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from small_sr import Crops, SmallSR, arguments, image_pairs, measure, photographs, restore, save_comparison, table
from torch import Tensor
from torch.utils.data import DataLoader

from sr_perceptual_loss import CriticLoss


class PerceptualSR(L.LightningModule):
    """L1, and from `start` on the critic."""

    def __init__(self, critic: str, weights: str | None, loss_weight: float, start: int) -> None:
        super().__init__()
        self.network = SmallSR()
        schedule = {"start": start, "ramp": 50}
        self.critic = CriticLoss(critic, weights=weights, loss_weight=loss_weight, schedule=schedule)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Pixel loss and critic, each logged by name."""
        lr, hr = batch
        sr = self.network(lr)
        self.critic.step(self.global_step)
        l1, perceptual = F.l1_loss(sr, hr), self.critic(sr, hr)
        self.log_dict({"l1": l1, **{f"critic_{name}": value for name, value in self.critic.terms.items()}})
        return l1 + perceptual

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """All parameters of the module; the critic adds none."""
        return torch.optim.Adam(self.parameters(), lr=5e-4)


class Halfway(L.Callback):
    """Restores the test images when the critic starts and at the end."""

    def __init__(self, pairs: list, half: int) -> None:
        self.pairs, self.half = pairs, half
        self.images: dict[str, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        """At both stages."""
        if trainer.global_step in (self.half, trainer.max_steps):
            self.images["before" if trainer.global_step == self.half else "after"] = restore(module.network, self.pairs)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    options = arguments(__doc__, "lightning").parse_args(argv)
    L.seed_everything(0, verbose=False)
    pairs, half = image_pairs(options.test), options.iterations // 2
    crops = Crops(photographs(options.data), options.iterations * options.batch, options.crop)
    model = PerceptualSR(options.critic, options.weights, options.loss_weight, half)
    halfway = Halfway(pairs, half)
    trainer = L.Trainer(
        max_steps=options.iterations,
        default_root_dir=options.out,
        logger=CSVLogger(options.out, name="log"),
        log_every_n_steps=50,
        callbacks=[halfway],
        accelerator="auto",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(crops, options.batch))
    trainer.save_checkpoint(options.out / "last.ckpt")
    results = {stage: measure(images, pairs) for stage, images in halfway.images.items()}
    print({name: round(float(value), 4) for name, value in trainer.logged_metrics.items()})
    print(table(results))
    name, lr, hr = pairs[0]
    shown = {stage: images[name] for stage, images in halfway.images.items()}
    save_comparison(options.out / "lightning.png", {"LR": lr, **shown, "HR": hr})
    return results


if __name__ == "__main__":
    main()
