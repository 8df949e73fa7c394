"""What BasicSR's models write for `srpl report`, read by its reader."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from sr_perceptual_loss.errors import NonFiniteError
from sr_perceptual_loss.integrations.basicsr.recording import _centre, _tag, group_tags
from sr_perceptual_loss.lab.report.run import read_run

from .conftest import L1
from .test_basicsr_schedule import batch, steps

CRITIC = {"type": "CriticLoss", "critic": "haarpsi", "loss_weight": 0.5}


class Loader(list):
    """Six images of 64 pixels, the second with the name of the first."""

    dataset = SimpleNamespace(opt={"name": "a/b"})

    def __init__(self):
        names = ["x 1", "x 1", "two", "three", "four", "five"]
        for number, name in enumerate(names):
            image = batch(number)
            super().append({k: v[:1] for k, v in image.items()} | {"lq_path": [f"folder/{name}.png"]})


@pytest.fixture
def model(build, options, tmp_path):
    def make(train=None, folder="an experiment"):
        (tmp_path / folder).mkdir(exist_ok=True)
        guard = {"every": 3}
        opt = options("PerceptualSRModel", {"losses": [L1, CRITIC], "guard": guard, "total_iter": 6, **(train or {})})
        opt["path"] = {"experiments_root": str(tmp_path / folder)}
        opt |= {"logger": {"print_freq": 2}, "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4}}}}
        return build(None, None, opt=opt), tmp_path / folder

    return make


def test_a_run_is_recorded_and_read_again(model):
    net, folder = model()
    logs = steps(net, range(1, 7))
    shown = []
    writer = SimpleNamespace(add_image=lambda *values: shown.append(values), add_scalar=lambda *values: None)
    net.nondist_validation(Loader(), 4, writer, False)
    net.nondist_validation(Loader(), 7, None, False)  # BasicSR's last validation has an iteration too many
    run = read_run(folder)
    assert run.curves["losses/l_haarpsi"] == {i: pytest.approx(logs[i]["l_haarpsi"], rel=1e-5) for i in (2, 4, 6)}
    assert run.curves["scores/haarpsi"][6] == pytest.approx(logs[6]["score_haarpsi"], rel=1e-5)
    assert run.curves["learning rate"] == {2: 1e-3, 4: 1e-3, 6: 1e-3}
    assert list(run.curves["guard/psnr"]) == [1, 3, 6]
    assert list(run.curves["metrics/a/b/psnr"]) == [4, 6]
    assert run.state == "complete: iteration 6 of 6"
    assert run.starts[0]["start"] == 0 and run.starts[0]["critics"] == {"l1": [], "haarpsi": ["haarpsi, formula"]}
    assert "loss_weight=0.5" in run.starts[0]["losses"]["haarpsi"]
    assert sorted(run.images) == ["a_b/four", "a_b/three", "a_b/two", "a_b/x_1"]
    kinds = run.images["a_b/two"]
    assert {kind: number for kind, (_, number) in kinds.items()} == {
        "lr": -1,
        "gt": -1,
        "before": 4,
        "now": 6,
        "map": 6,
    }
    with Image.open(kinds["map"][0]) as image:
        assert image.size == (64, 64) and image.mode == "L" and image.info["critic"] == "haarpsi"
    tag, strip, iteration = shown[0]
    assert (tag, strip.shape, iteration) == ("a/b/x 1: LR, before, now, GT, map", (3, 64, 5 * 64), 4)


def test_a_continued_run_replaces_what_came_after_its_state(model):
    first, folder = model()
    steps(first, range(1, 6))
    first.nondist_validation(Loader(), 3, None, False)
    (folder / "metrics.jsonl").open("a").write('{"iter": 5, "val')  # killed
    second, _ = model()
    logs = steps(second, range(3, 7))
    run = read_run(folder)
    assert [start["start"] for start in run.starts] == [0, 2] and run.skipped == 1
    assert list(run.curves["losses/l_l1"]) == [2, 4, 6]
    assert run.curves["losses/l_l1"][4] == pytest.approx(logs[4]["l_l1"], rel=1e-5)
    assert "metrics/a/b/psnr" not in run.curves  # of iteration 3
    second.nondist_validation(Loader(), 6, None, False)
    assert read_run(folder).images["a_b/two"]["before"][1] == 3


def test_alarms_and_stops_are_recorded(model):
    net, folder = model()
    steps(net, [1])
    net.loss_list.guard.on_alarm(SimpleNamespace(iteration=1, __str__=lambda: ""))
    with torch.no_grad():
        next(net.net_g.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        steps(net, [2])
    run = read_run(folder)
    assert [next(iter(event.keys() - {"iter", "time"})) for event in run.events] == ["alarm", "stopped"]
    assert "l1" in run.events[1]["stopped"] and run.state.startswith("stopped: iteration 2")


def test_a_disk_that_cannot_be_written_stops_no_training(model, basicsr_log):
    net, folder = model()
    (folder / "metrics.jsonl").mkdir()
    steps(net, [1, 2])
    net.nondist_validation(Loader(), 2, None, False)
    assert basicsr_log.text.count("The report of this run ends here") == 1
    assert not (folder / "validation_images").exists()


def test_nothing_is_recorded_without_a_folder_or_on_another_rank(build, options, tmp_path):
    opt = options("PerceptualSRModel", {"losses": [L1]}) | {"rank": 1, "logger": {"print_freq": 1}}
    steps(build(None, None, opt={**opt, "path": {"experiments_root": str(tmp_path)}}), [1])
    assert list(tmp_path.iterdir()) == []


def test_the_centres_of_large_images_belong_together():
    gt = torch.arange(1200.0).div(1200).expand(1, 3, 400, 1200)
    centre = _centre({"lq": gt[..., ::4, ::4], "result": gt, "gt": gt})
    assert {kind: tuple(image.shape) for kind, image in centre.items()} == {
        "lr": (3, 64, 64), "now": (3, 256, 256), "gt": (3, 256, 256)
    }  # fmt: skip
    assert set(_centre({"lq": gt[..., ::4, ::4], "result": gt, "gt": gt[..., 1:]})) == {"lr", "now"}
    assert torch.equal(centre["now"][:, ::4, ::4], centre["lr"]) and centre["lr"][0, 0, 0] == pytest.approx(118 / 300)


def test_tags_are_grouped_and_other_names_stay():
    tags = [_tag(key) for key in ("l_g_pix", "score_haarpsi", "balance_norm_l1", "out_d_real", "losses/l_pix")]
    assert tags == ["losses/l_g_pix", "scores/haarpsi", "balance/norm_l1", "out_d_real", "losses/l_pix"]
    seen = []
    writer = group_tags(lambda log_dir: SimpleNamespace(add_scalar=lambda *values: seen.append(values)))(log_dir="x")
    writer.add_scalar("score_haarpsi", 0.5, 3)
    assert seen == [("scores/haarpsi", 0.5, 3)]
    assert group_tags(lambda log_dir: None)(log_dir="x") is None


def test_numbers_that_are_not_finite_are_null(model):
    net, folder = model()
    net.record(1, values={"x": float("nan"), "y": 1 / 3})
    assert json.loads((folder / "metrics.jsonl").read_text())["values"] == {"x": None, "y": 0.333333}
