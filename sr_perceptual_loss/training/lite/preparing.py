"""Before the first step: photographs, table, calibration, and what a person is told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.training.distortions.level_table import level_means
from sr_perceptual_loss.training.lite.groups import GroupStream, calibrate
from sr_perceptual_loss.training.lite.hardening import shrunk
from sr_perceptual_loss.training.lite.judging import HeldOut, held_out, type_names
from sr_perceptual_loss.training.lite.labels import Labels
from sr_perceptual_loss.training.lite.measures import MEASURES, Fusion, full_reference
from sr_perceptual_loss.training.lite.photographs import Photographs, find_photographs, split_photographs
from sr_perceptual_loss.training.lite.settings import LiteConfig
from sr_perceptual_loss.training.reporting import Reporter

__all__ = ["Prepared", "prepare"]

# Held-out groups are the same for every seed, so that runs can be compared.
_JUDGING_SEED = 20_261_122


@dataclass
class Prepared:
    """What a run works with.

    Attributes:
        train: photographs to train on.
        rest: held-out photographs; those of training if nothing is held out.
        labels: of versions.
        files: all photographs, the held-out ones last.
        held_out_count: number of held-out photographs.
    """

    train: Photographs
    rest: Photographs
    labels: Labels
    files: list[Path]
    held_out_count: int
    _judged: HeldOut | None = None

    def fused_bicubic(self, gt: Tensor) -> list[float]:
        """Fused measure of bicubic enlargement by 4 of crops, (N, 3, S, S)."""
        low = F.interpolate(shrunk(gt), scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)
        assert self.labels.fusion is not None
        return self.labels.fusion(full_reference(low, gt))

    def held_out(self, config: LiteConfig) -> HeldOut:
        """Held-out groups of all types, made once per call."""
        if self._judged is None:
            chosen = config.validation
            groups = replace(
                config.groups,
                count=1,
                versions=chosen.versions,
                sides=(str(chosen.side),),
                networks=0.0,
            )
            stream = GroupStream(self.rest, groups, config.pairs, seed=_JUDGING_SEED, steps=chosen.groups)
            self._judged = held_out(stream, self.labels)
        return self._judged

    def attacked(self, config: LiteConfig) -> Tensor:
        """Pristine held-out crops for the attacks of the report, (N, 3, S, S)."""
        groups = self.held_out(config).images
        return torch.stack([images[0] for images in groups[: config.validation.attacked]])

    def photographs_sha256(self) -> str:
        """Hash over names and bytes of all photographs, in order."""
        total = hashlib.sha256()
        for path in self.files:
            total.update(path.name.encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    def describe(self, config: LiteConfig, critic: RQILite, device: str) -> str:
        """The whole configuration and what follows from it."""
        assert self.labels.fusion is not None
        powers = len(self.labels.fusion.weights) // len(MEASURES)
        weights = [sum(self.labels.fusion.weights[k :: len(MEASURES)]) for k in range(len(MEASURES))]
        fused = ", ".join(f"{w:.2f} x {name}" for name, w in zip(MEASURES, weights, strict=True))
        lines = [
            yaml.safe_dump(config.as_dict(), sort_keys=False, default_flow_style=None).rstrip(),
            "---",
            f"rqi_lite: {sum(p.numel() for p in critic.parameters()):,} parameters on {device}",
            f"{len(self.train)} photographs to train on, {self.held_out_count} held out; left-out types: "
            + (", ".join(type_names(config.data.types_out)) or "none"),
            f"fused measure (weights of {powers} powers added up): {fused}",
            f"{config.steps} steps of {config.groups.count} groups x {config.groups.versions} images, "
            f"{config.groups.count * config.pairs.per_group} pairs",
        ]
        return "\n".join(lines)


def prepare(config: LiteConfig, reporter: Reporter) -> Prepared:
    """Read photographs and table, fit or read the fused measure.

    Args:
        config: the run; ``calibration.json`` in its folder is read if it is there.
        reporter: told about the calibration.

    Raises:
        InputError: photographs or label list cannot be used.
    """
    files = find_photographs(config.data.photos)
    train_files, rest_files = split_photographs(files, config.data.held_out_photos)
    side = max(*config.groups.crop_sides, config.validation.side)
    train = Photographs(train_files, side)
    rest = Photographs(rest_files, side) if rest_files else train
    table = level_means(config.data.labels, leave_out=config.data.leave_out)
    labels = Labels(table)
    path = config.out / "calibration.json"
    if path.exists():
        fusion = Fusion.load(path)
    else:
        reporter.say("fits the fused measure to the table ...")
        fusion = calibrate(
            train,
            labels.cells,
            left_out=config.data.types_out,
            crops=config.data.calibration_crops,
            side=config.validation.side,
            shrink=config.groups.shrink,
            seed=config.seed,
        )
        fusion.save(path)
    return Prepared(train, rest, Labels(table, fusion), [*train_files, *rest_files], len(rest_files))
