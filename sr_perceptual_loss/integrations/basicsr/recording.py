"""The record of a run, written on rank 0: ``metrics.jsonl``, ``validation_images/`` and TensorBoard values.

``metrics.jsonl`` in the folder of the experiment has one JSON object per line, with the time in seconds:

* ``{"start": iteration, ...}`` by each process. Lines above it with later iterations no longer count: the run was
  resumed from an older state.
* ``{"iter": ..., "values": {name: number or null}}`` whenever BasicSR logs, at each check of the guard, and at each
  validation. Names are those of TensorBoard under ``srpl basicsr``.
* ``{"iter": ..., "alarm": text}`` and ``{"iter": ..., "stopped": text}``.

``validation_images/<set>/<image>/`` has the centres of a few images: ``lr.png``, ``gt.png``, ``before_<iter>.png`` of
the first validation, ``now_<iter>.png`` and ``map_<iter>.png`` of the last one.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.logger import init_tb_logger
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from sr_perceptual_loss import __version__
from sr_perceptual_loss.critics.maps import display_limit
from sr_perceptual_loss.critics.whole_image import map_whole_image
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.integrations.basicsr.losses import LossList, named_losses
from sr_perceptual_loss.integrations.host import HostLoss
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.frozen import FrozenCritic
from sr_perceptual_loss.monitor.guard import Alarm
from sr_perceptual_loss.weights.file import atomic_path

__all__ = ["RecordingMixin", "describe_losses", "group_tags"]

#: Validation images that are kept of each set, and the longest side of what is kept of them.
IMAGES, SIDE = 4, 256
#: What a log name begins with -> the same with its group. BasicSR's loop itself makes ``losses/l_pix`` of ``l_pix``.
GROUPS = {"l_": "losses/l_", "score_": "scores/", "weight_": "weights/", "balance_": "balance/"}


def describe_losses(model: Any) -> dict[str, str]:
    """Every loss of a model by log name: its settings in one line."""
    schedules = getattr(getattr(model, "cri_perceptual", None), "schedules", {})
    lines = {}
    for name, loss in named_losses(model).items():
        ours = loss.loss if isinstance(loss, HostLoss) else loss
        weights = [f"{key}={value}" for key, value in vars(loss).items() if key in ("loss_weight", "perceptual_weight")]
        line = repr(ours) if isinstance(ours, PairLoss) else f"{type(loss).__name__}({', '.join(weights)})"
        # A loss of ours names its schedule itself.
        lines[name] = f"{line}, {schedules[name]}" if name in schedules and ours is loss else line
    return lines


def _critics(loss: nn.Module) -> list[str]:
    """Name, weights and their digest of each critic in a loss."""
    critics = [part.critic for part in loss.modules() if isinstance(part, FrozenCritic)]
    return [f"{c.card.name}, {c.origin}" + f", {c.digest()[:16]}" * c.card.needs_weights for c in critics]


class RecordingMixin:
    """Stands between :class:`PerceptualMixin` and BasicSR's model. A file that cannot be written stops no training."""

    # Set by BasicSR's classes, and by PerceptualMixin.
    opt: dict[str, Any]
    device: torch.device
    is_train: bool
    loss_list: LossList | None

    _begun = _failed = False
    _guard_writer: Any = None
    #: During a validation, what is kept of its first images, by name; and the name of the one at hand.
    _seen: dict[str, dict[str, Tensor]] | None = None
    _image_name = ""

    @property
    def _folder(self) -> Path | None:
        """Folder of the experiment; None where nothing is recorded."""
        root = (self.opt.get("path") or {}).get("experiments_root")
        if root is None or self.opt.get("rank", 0) != 0 or not self.is_train or self._failed:
            return None
        return Path(root)

    def record(self, iteration: int, **row: object) -> None:
        """Append a line to ``metrics.jsonl``; numbers in ``values`` keep six digits."""
        if isinstance(values := row.get("values"), Mapping):
            row["values"] = {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in values.items()}
        self._append({"iter": iteration, **row})

    def _append(self, row: Mapping[str, object]) -> None:
        if self._folder is None:
            return
        try:
            with (self._folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                # A process that was killed may have left half a line.
                begin = "\n" if "start" in row and file.tell() else ""
                file.write(f"{begin}{json.dumps({**row, 'time': round(time.time())})}\n")
        except OSError as error:
            self._recording_failed(error)

    def _recording_failed(self, error: Exception) -> None:
        self._failed = True
        get_root_logger().warning(f"The report of this run ends here: {error}")

    def optimize_parameters(self, current_iter: int) -> None:
        """BasicSR's own step; its values are recorded as often as BasicSR logs them."""
        if not self._begun and self._folder is not None:
            self._begun = True
            critics = {name: _critics(loss) for name, loss in named_losses(self).items()}
            versions = {"sr_perceptual_loss": __version__, "torch": torch.__version__, "device": str(self.device)}
            start = {"start": current_iter - 1, "total": int(self.opt["train"].get("total_iter") or 0)}
            self._append({**start, "losses": describe_losses(self), "critics": critics, "versions": versions})
        super().optimize_parameters(current_iter)  # type: ignore[misc]
        every = (self.opt.get("logger") or {}).get("print_freq")
        if every and current_iter % every == 0:
            log = self.get_current_log()  # type: ignore[attr-defined]
            rate = self.get_current_learning_rate()[0]  # type: ignore[attr-defined]
            self.record(current_iter, values={_tag(k): float(v) for k, v in log.items()} | {"learning rate": rate})

    def log_alarm(self, alarm: Alarm) -> None:
        """A warning in BasicSR's log, and a line of the record."""
        get_root_logger().warning(str(alarm))
        self.record(alarm.iteration, alarm=str(alarm))

    def log_guard(self, current_iter: int) -> None:
        """One log line and TensorBoard values in the iteration of a check, as the run ``<name>/guard``.

        A run of its own, since TensorBoard follows one file per folder and BasicSR's writer is out of reach.
        """
        guard = None if self.loss_list is None else self.loss_list.guard
        if guard is None or guard.last_check != current_iter or self.opt.get("rank", 0) != 0:
            return
        text = ", ".join(f"{name}: {value:.4g}" for name, value in guard.values.items())
        get_root_logger().info(f"guard, iteration {current_iter}: {text or 'skipped, values are not finite'}")
        values = {f"guard/{name}": value for name, value in guard.values.items()}
        self.record(current_iter, values=values)
        root, name = self.opt.get("root_path"), self.opt["name"]
        if root is None or "debug" in name or not (self.opt.get("logger") or {}).get("use_tb_logger"):
            return
        if self._guard_writer is None:
            self._guard_writer = init_tb_logger(log_dir=str(Path(root) / "tb_logger" / name / "guard"))
        for key, value in values.items():
            self._guard_writer.add_scalar(key, value, current_iter)
        self._guard_writer.flush()

    def _log_validation_metric_values(self, current_iter: int, dataset_name: str, tb_logger: Any) -> None:
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)  # type: ignore[misc]
        metrics: dict[str, float] = self.metric_results  # type: ignore[attr-defined]
        values = {f"metrics/{dataset_name}/{name}": float(value) for name, value in metrics.items()}
        self.record(self._iteration(current_iter), values=values)

    def _iteration(self, current_iter: int) -> int:
        """BasicSR's last validation comes with an iteration that was not made."""
        return min(current_iter, int(self.opt["train"].get("total_iter") or current_iter))

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """BasicSR's own; the name of the image is kept."""
        super().feed_data(data)  # type: ignore[misc]
        if self._seen is not None:
            self._image_name = Path((data.get("lq_path") or ["image"])[0]).stem

    def get_current_visuals(self) -> dict[str, Tensor]:
        """BasicSR's own; the centres of the first images of a validation are kept."""
        visuals: dict[str, Tensor] = super().get_current_visuals()  # type: ignore[misc]
        if self._seen is not None and self._image_name not in self._seen and len(self._seen) < IMAGES:
            self._seen[self._image_name] = _centre(visuals)
        return visuals

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """BasicSR's own, which is also that of rank 0; a few of its images are kept."""
        self._seen = {} if self._folder is not None else None
        try:
            super().nondist_validation(dataloader, current_iter, tb_logger, save_img)  # type: ignore[misc]
            seen = self._seen or {}
        finally:
            self._seen = None
        for name, images in seen.items():
            self._keep(str(dataloader.dataset.opt["name"]), name, self._iteration(current_iter), images, tb_logger)

    def _keep(self, dataset: str, name: str, iteration: int, images: dict[str, Tensor], tb_logger: Any) -> None:
        """Write the files of one validation image, and a row of them in TensorBoard."""
        if self._folder is None:
            return
        folder = self._folder / "validation_images" / _file_name(dataset) / _file_name(name)
        try:
            first = [path for path in folder.glob("before_*.png") if int(path.stem.partition("_")[2]) <= iteration]
            before = _read(first[0]) if first else images["now"]
            lost, texts = self._map(images, name)
            row = {"lr": images["lr"], "before": before, "now": images["now"], "gt": images.get("gt"), "map": lost}
            shown = {kind: image for kind, image in row.items() if image is not None}
            for kind in (kind for kind in shown if kind != "before" or not first):
                path = folder / (f"{kind}.png" if kind in ("lr", "gt") else f"{kind}_{iteration}.png")
                _write(path, shown[kind], texts if kind == "map" else {})
                for old in {*folder.glob(f"{kind}_*.png")} - {path}:
                    old.unlink()
        except (OSError, WeightsError) as error:
            self._recording_failed(error)
            return
        if tb_logger:
            size = images["now"].shape[1:]
            same = [nn.functional.interpolate(x[None], size)[0].expand(3, -1, -1) for x in shown.values()]
            kinds = ", ".join(kind.upper() if kind in ("lr", "gt") else kind for kind in shown)
            tb_logger.add_image(f"{dataset}/{name}: {kinds}", torch.cat(same, 2), iteration)

    def _map(self, images: Mapping[str, Tensor], name: str) -> tuple[Tensor | None, dict[str, str]]:
        """Map of the first critic of the list, (1, H, W) in [0, 1], or None; and its name with the value of a 1."""
        losses = {} if self.loss_list is None else self.loss_list.pair_losses
        critics = [critic for loss in losses.values() if (critic := getattr(loss, "critic", None)) is not None]
        if not critics or "gt" not in images:
            return None, {}
        try:
            sr, hr = (images[kind].to(self.device) for kind in ("now", "gt"))
            lost = map_whole_image(critics[0], sr, hr, name).float().cpu()
        except (InputError, RuntimeError) as error:  # a size that the critic does not take, or no memory left
            get_root_logger().warning(f"No map of {name}: {str(error).splitlines()[0]}")
            return None, {}
        top = display_limit(lost)
        return (lost / top).clamp(max=1)[None], {"critic": critics[0].card.name, "top": f"{top:.4g}"}


def _tag(key: str) -> str:
    """``score_haarpsi`` -> ``scores/haarpsi``; names without a group stay."""
    return next((group + key[len(prefix) :] for prefix, group in GROUPS.items() if key.startswith(prefix)), key)


def group_tags(stock: Callable[..., Any]) -> Callable[..., Any]:
    """BasicSR's ``init_tb_logger``, with a writer that puts our scalars into groups: its loop does so for losses."""

    def init_tb_logger(*arguments: Any, **options: Any) -> Any:
        writer = stock(*arguments, **options)
        if writer is not None:  # rank 0
            add = writer.add_scalar
            writer.add_scalar = lambda tag, *values, **more: add(_tag(tag), *values, **more)
        return writer

    return init_tb_logger


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).lstrip(".") or "_"


def _centre(visuals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same region of all images, at most ``SIDE`` pixels of the SR image, (C, H, W) in [0, 1]."""
    lr, sr, gt = visuals["lq"][0], visuals["result"][0], visuals.get("gt")
    images = {"lr": lr, "now": sr}
    if gt is not None and gt[0].shape == sr.shape:  # a ground truth of another size cannot be cut alike
        images["gt"] = gt[0]
    for axis in (1, 2):
        length, scale = lr.shape[axis], sr.shape[axis] / lr.shape[axis]
        kept = min(length, max(1, int(SIDE / scale)))
        for kind, image in images.items():
            factor = 1.0 if kind == "lr" else scale
            images[kind] = image.narrow(axis, round((length - kept) // 2 * factor), round(kept * factor))
    return {kind: image.float().clamp(0, 1).clone() for kind, image in images.items()}


def _read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def _write(path: Path, image: Tensor, texts: Mapping[str, str]) -> None:
    pixels = (image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)
