"""srpl metrics: the CSV, the means, continuation after an interruption, critics, and a function of the user."""

from __future__ import annotations

import csv
import json
import math
import sys

import pytest
import torch
from pairs import make_pair
from PIL import Image

from sr_perceptual_loss.critics import create_critic
from sr_perceptual_loss.critics.registry import critic_class
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.images import read_image
from sr_perceptual_loss.lab.evaluation import metric_set
from sr_perceptual_loss.lab.evaluation.file_lock import file_lock
from sr_perceptual_loss.lab.evaluation.metric_table import MetricTable, Row, means
from sr_perceptual_loss.lab.evaluation.sr_metrics import psnr, ssim_8bit
from sr_perceptual_loss.weights import save_weights


@pytest.fixture
def run(srpl, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return lambda *arguments: srpl("metrics", *arguments)


def uint8(image):
    return (image * 255).round().to(torch.uint8)


@pytest.fixture
def folders(picture, tmp_path):
    """sr, hr and lr folders of three images of 24x32 pixels."""
    for seed, name in enumerate(("a", "b", "c")):
        sr, hr = make_pair(1, 24, 32, seed=seed)
        picture(f"sr/{name}_x4.png", image=uint8(sr[0]))
        picture(f"hr/{name}.png", image=uint8(hr[0]))
        picture(f"lr/{name}x4.png", 10 * seed, 6, 8)
    return tmp_path / "sr", tmp_path / "hr"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def images_of(folders, name="a"):
    return read_image(folders[0] / f"{name}_x4.png"), read_image(folders[1] / f"{name}.png")


def test_csv_and_json_hold_the_values_of_the_library(run, folders, tmp_path):
    out = tmp_path / "m.csv"
    result = run(*folders, "--metrics", "ssim_rgb,psnr_y", "--critic", "haarpsi", "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    rows = rows_of(out)
    assert [row["image"] for row in rows] == ["a_x4.png", "b_x4.png", "c_x4.png", "mean"]
    assert list(rows[0]) == ["image", "reference", "ssim_rgb", "psnr_y", "haarpsi", "inputs"]
    sr, hr = images_of(folders)
    assert float(rows[0]["psnr_y"]) == psnr(sr, hr, border=4)
    assert float(rows[0]["ssim_rgb"]) == ssim_8bit(sr, hr, border=4, channel="rgb")
    expected = create_critic("haarpsi").score(sr[None], hr[None]).item()
    assert float(rows[0]["haarpsi"]) == pytest.approx(expected, abs=1e-6)
    report = json.loads(result.stdout)
    for name in ("ssim_rgb", "psnr_y", "haarpsi"):
        mean = sum(float(row[name]) for row in rows[:3]) / 3
        assert float(rows[3][name]) == pytest.approx(mean, rel=1e-12) == report["means"][name]
        assert report["images"]["b_x4.png"][name] == float(rows[1][name])
    assert report["better"] == {"ssim_rgb": "higher", "psnr_y": "higher", "haarpsi": "higher"}
    assert f"wrote {out}" in result.stderr


def test_table_on_stdout(run, folders):
    result = run(*folders)
    assert result.exit_code == 0, result.stderr
    values = [psnr(*images_of(folders, name), border=4) for name in "abc"]
    assert f"{sum(values) / 3:.4f}" in result.stdout
    assert "BT.601 luma, studio range" in result.stdout
    assert "--out" in result.stderr


def test_border_follows_the_scale_or_crop(run, folders):
    sr, hr = images_of(folders)
    for options, border in ((("--scale", 2), 2), (("--crop", 0), 0), (("--scale", 2, "--crop", 3), 3)):
        result = run(*folders, "--json", *options)
        assert json.loads(result.stdout)["images"]["a_x4.png"]["psnr_y"] == psnr(sr, hr, border=border)


def test_equal_images_are_counted_and_left_out_of_the_mean(run, folders):
    sr, hr = folders
    (sr / "b_x4.png").write_bytes((hr / "b.png").read_bytes())
    out = sr.parent / "m.csv"
    report = json.loads(run(sr, hr, "--metrics", "psnr_y,psnr_rgb,ssim_y", "--json", "--out", out).stdout)
    assert report["images"]["b_x4.png"]["psnr_y"] == "inf"
    finite = [report["images"][f"{name}_x4.png"]["psnr_y"] for name in "ac"]
    assert report["means"]["psnr_y"] == pytest.approx(sum(finite) / 2, rel=1e-12)
    assert report["infinite"] == {"psnr_y": 1, "psnr_rgb": 1}
    again = run(sr, hr, "--metrics", "psnr_y,psnr_rgb,ssim_y", "--out", out)
    assert "mean without 1 image(s) equal to the reference" in again.stdout
    assert "3 of 3 rows taken from" in again.stderr
    assert rows_of(out)[1]["psnr_y"] == "inf"


def test_means_when_all_images_are_equal():
    report = means([Row("a.png", "a.png", "0", {"psnr_y": math.inf})], ["psnr_y"])["psnr_y"]
    assert (report.value, report.infinite) == (math.inf, 1)


@pytest.fixture
def measured(monkeypatch):
    """Names of the images that were read and measured."""
    seen = []
    real = metric_set.Images.read.__func__

    def read(cls, sr, hr, lr, scale):
        seen.append(sr.name)
        return real(cls, sr, hr, lr, scale)

    monkeypatch.setattr(metric_set.Images, "read", classmethod(read))
    return seen


def test_an_interrupted_run_continues_and_gives_the_same_file(run, folders, measured, tmp_path):
    out = tmp_path / "m.csv"
    run(*folders, "--out", out)
    whole = out.read_text()
    lines = whole.splitlines(keepends=True)
    # Killed while it wrote the second row; then a machine without power.
    for left in (b"", b"\0\0\0", "b_x4.pn\u00e9".encode()[:-1], lines[2][:-1].encode(), b"b_x4.png,b.png,31.5\n"):
        out.write_bytes("".join(lines[:2]).encode() + left)
        measured.clear()
        result = run(*folders, "--out", out)
        assert result.exit_code == 0, result.stderr
        assert measured == ["b_x4.png", "c_x4.png"]
        assert "1 of 3 rows taken from" in result.stderr
        assert ("1 unreadable line(s)" in result.stderr) == bool(left)
        assert out.read_text() == whole
    measured.clear()
    run(*folders, "--out", out)
    assert measured == [] and out.read_text() == whole


def test_rows_are_on_disk_before_the_next_image(run, folders, measured, tmp_path):
    """The last image is damaged: the rows of the others are kept."""
    out = tmp_path / "m.csv"
    good = (folders[0] / "c_x4.png").read_bytes()
    (folders[0] / "c_x4.png").write_bytes(b"no image")
    result = run(*folders, "--out", out)
    assert result.exit_code == 2 and "c_x4.png" in result.stderr
    assert [row["image"] for row in rows_of(out)] == ["a_x4.png", "b_x4.png"]
    (folders[0] / "c_x4.png").write_bytes(good)
    measured.clear()
    run(*folders, "--out", out)
    assert measured == ["c_x4.png"]
    assert [row["image"] for row in rows_of(out)] == ["a_x4.png", "b_x4.png", "c_x4.png", "mean"]


def test_workers_write_the_same_bytes(run, folders, tmp_path):
    """Up to a damaged image, with the same message; one process continues."""
    arguments = (*folders, "--critic", "haarpsi", "--json")
    whole, out = tmp_path / "m.csv", tmp_path / "w.csv"
    image = folders[0] / "c_x4.png"
    good = image.read_bytes()
    expected = run(*arguments, "--out", whole)
    image.write_bytes(b"no image")
    broken = run(*arguments, "--workers", 2, "--out", out)
    assert broken.exit_code == 2 and broken.stderr == run(*arguments).stderr
    assert out.read_bytes() == b"".join(whole.read_bytes().splitlines(keepends=True)[:3])
    image.write_bytes(good)
    result = run(*arguments, "--out", out)
    assert result.exit_code == 0 and "2 of 3 rows taken from" in result.stderr
    assert out.read_bytes() == whole.read_bytes() and result.stdout == expected.stdout


def test_replaced_images_are_measured_again_and_removed_ones_forgotten(run, folders, measured, picture, tmp_path):
    out = tmp_path / "m.csv"
    run(*folders, "--out", out)
    before = rows_of(out)
    picture("sr/b_x4.png", 7, 24, 32)
    (folders[0] / "a_x4.png").unlink()
    measured.clear()
    run(*folders, "--out", out)
    after = rows_of(out)
    assert measured == ["b_x4.png"]
    assert [row["image"] for row in after] == ["b_x4.png", "c_x4.png", "mean"]
    assert float(after[0]["psnr_y"]) < float(before[1]["psnr_y"])
    assert after[1] == before[2]


def test_other_settings_never_mix(run, folders, tmp_path):
    out = tmp_path / "m.csv"
    run(*folders, "--out", out)
    before = out.read_text()
    for options, words in (
        (("--crop", 2), "border: 4 "),
        (("--metrics", "psnr_y"), "columns:"),
        (("--critic", "haarpsi"), "sources: {}"),
    ):
        result = run(*folders, "--out", out, *options)
        assert result.exit_code == 2 and words in result.stderr and "--out" in result.stderr
        assert out.read_text() == before
    (tmp_path / "m.settings.json").unlink()
    result = run(*folders, "--out", out)
    assert result.exit_code == 2 and "m.settings.json" in result.stderr
    assert out.read_text() == before


def test_a_table_with_another_first_line_is_refused(tmp_path):
    MetricTable(tmp_path / "m.csv", ["psnr_y"], {})
    (tmp_path / "m.csv").write_text("image,psnr_y\n")
    with pytest.raises(InputError, match="first line"):
        MetricTable(tmp_path / "m.csv", ["psnr_y"], {})
    with pytest.raises(InputError, match="--out"):
        MetricTable(tmp_path / "m.csv" / "x.csv", ["psnr_y"], {})


def test_names_with_commas_and_quotes_survive(tmp_path):
    row = Row('a,"b"\u00e9.png', "r.png", "12ab", {"psnr_y": 1 / 3})
    MetricTable(tmp_path / "m.csv", ["psnr_y"], {}).add(row)
    again = MetricTable(tmp_path / "m.csv", ["psnr_y"], {})
    assert again.find('a,"b"\u00e9.png', "r.png", "12ab") == row
    assert again.find('a,"b"\u00e9.png', "r.png", "12ac") is None
    assert again.find('a,"b"\u00e9.png', "other.png", "12ab") is None


def test_reference_that_is_no_multiple_of_the_scale_is_cut(run, folders, picture):
    _, hr = make_pair(1, 26, 35, seed=0)
    picture("hr/a.png", image=uint8(hr[0]))
    picture("sr/a_x4.png", image=uint8(hr[0])[:, :24, :32])
    result = run(*folders, "--json")
    assert json.loads(result.stdout)["images"]["a_x4.png"]["psnr_y"] == "inf"
    assert "1 reference(s) cut to multiples of 4: a.png" in result.stderr
    picture("sr/a_x4.png", image=uint8(hr[0])[:, :23, :32])
    result = run(*folders)
    assert result.exit_code == 2
    assert all(words in result.stderr for words in ("a_x4.png", "32x23", "35x26"))


def test_fixed_size_critic_with_its_weights(run, small, folders, tmp_path):
    files = []
    for factor in (1.0, 2.0):
        path = tmp_path / f"w{factor}.safetensors"
        network = small()
        network.weight.data[:] = factor
        save_weights(network, path)
        files.append(path)
    sr, hr = images_of(folders)
    # 24x32 is covered by 12 boxes of 8x8 without overlap: their mean is the mean of the image.
    expected = -float((sr - hr).abs().mean())
    out = tmp_path / "m.csv"
    arguments = (*folders, "--critic", "small", "--metrics", "", "--out", out)
    for factor, spelled in ((1, f"small={files[0]}"), (2, files[1])):
        out.unlink(missing_ok=True)
        result = run(*arguments, "--weights", spelled)
        assert result.exit_code == 0, result.stderr
        assert float(rows_of(out)[0]["small"]) == pytest.approx(factor * expected, rel=1e-5)
    # Other weights under the same name are other settings.
    files[1].write_bytes(files[0].read_bytes())
    result = run(*arguments, "--weights", files[1])
    assert result.exit_code == 2 and "sources:" in result.stderr
    assert "'official'" in run(*arguments).stderr


def test_protocol_of_evaluate(run, small, folders, tmp_path):
    save_weights(small(), tmp_path / "w.safetensors")
    options = ("--critic", "small", "--weights", tmp_path / "w.safetensors", "--json")
    result = run(*folders, *options, "--protocol", "centre")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    sr, hr = (image[:, 8:16, 12:20] for image in images_of(folders))
    assert report["images"]["a_x4.png"]["small"] == pytest.approx(-float((sr - hr).abs().mean()), rel=1e-5)
    assert "protocol centre (seed 0)" in report["settings"]["columns"]["small"]
    result = run(*folders, *options, "--protocol", "full")
    assert result.exit_code == 2 and "a_x4.png: protocol 'full'" in result.stderr
    assert "'centre'" in run(*folders, *options, "--protocol", "centr").stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--protocol", "paper"), "--critic"),
        (("--critic", "haarpsy"), "'haarpsi'"),
        (("--critic", "haarpsi", "--critic", "haarpsi"), "--critic"),
        (("--metrics", "lpips"), "lpips_alex"),
        (("--metrics", "ssimulacra2"), "'ssimulacra2'"),
        (("--weights", "rqi_maniqa=official"), "CRITIC=VALUE"),
        (("--metrics", "psnr"), "'psnr_y'"),
        (("--metrics", "psnr_y,psnr_y"), "'psnr_y'"),
        (("--metrics", ""), "--metrics"),
        (("--metrics", "sf"), "a_x4.png: sf"),
        (("--crop", 9), "a_x4.png: border"),
        (("--device", "toaster"), "'toaster'"),
        (("--pfiqa", "m:f"), "--lr"),
    ],
)
def test_options_that_are_refused(run, folders, options, words):
    result = run(*folders, *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_files_instead_of_folders_are_refused(run, folders):
    result = run(folders[0] / "a_x4.png", folders[1] / "a.png")
    assert result.exit_code == 2 and "SR_DIR" in result.stderr


@pytest.mark.parametrize(
    ("name", "file"), [("lpips_alex", "alexnet-owt-7be5be79.pth"), ("dists_vgg", "vgg16-397923af")]
)
def test_a_distance_whose_network_is_not_here_is_refused_with_the_cure(run, folders, name, file):
    result = run(*folders, "--metrics", f"psnr_y,{name}")
    assert result.exit_code == 2 and result.stdout == ""
    assert f"srpl fetch {name}" in result.stderr and file in result.stderr


@pytest.mark.parametrize(
    ("name", "best"), [("lpips_alex", 0), ("lpips_vgg", 0), ("lpips_squeeze", 0), ("dists_vgg", 1)]
)
def test_distances_are_published_ones_and_their_weights_are_settings(run, folders, monkeypatch, name, best):
    """LPIPS = -score and DISTS = 1 - score: 0 for equal images, lower is better."""
    torch.manual_seed(1)
    critic = critic_class(name).tiny().eval()
    monkeypatch.setattr(metric_set, "create_critic", lambda *_, **__: critic)
    sr, hr = folders
    for folder in folders:  # large enough for AlexNet
        for path in folder.iterdir():
            Image.open(path).resize((64, 48)).save(path)
    (sr / "b_x4.png").write_bytes((hr / "b.png").read_bytes())
    report = json.loads(run(sr, hr, "--metrics", name, "--json").stdout)
    x, y = (image[None] for image in images_of(folders))
    assert report["images"]["a_x4.png"][name] == pytest.approx(best - critic.score(x, y).item(), abs=1e-6)
    assert report["images"]["b_x4.png"][name] == pytest.approx(0, abs=1e-5)
    assert report["better"] == {name: "lower"} and report["settings"]["sources"] == {name: critic.digest()}


def test_sfsn_columns_share_their_parts(run, picture, tmp_path):
    sr, hr = make_pair(1, 164, 170)
    picture("sr/a.png", image=uint8(sr[0]))
    picture("hr/a.png", image=uint8(hr[0]))
    result = run(tmp_path / "sr", tmp_path / "hr", "--metrics", "sfsn_1_9,sf,sfsn,sn", "--json")
    values = json.loads(result.stdout)["images"]["a.png"]
    assert list(values) == ["sfsn_1_9", "sf", "sfsn", "sn"]
    assert values["sfsn"] == pytest.approx(0.9 * values["sf"] + 0.1 * values["sn"], rel=1e-12)
    assert values["sfsn_1_9"] == pytest.approx(values["sfsn"] + values["sf"], rel=1e-12)
    assert 0.5 < values["sf"] < 1 and 0 < values["sn"] < 8


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes my_pfiqa.py into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(body):
        monkeypatch.delitem(sys.modules, "my_pfiqa", raising=False)
        (tmp_path / "my_pfiqa.py").write_text(f"import torch\ncalls = []\n\n\ndef score(sr, lr, scale):\n    {body}\n")
        return (tmp_path / "lr", "--pfiqa", "my_pfiqa:score", "--json")

    return write


def test_the_users_function_gets_sr_lr_and_scale(run, folders, module):
    options = module("return lr.mean() * 255 + scale * 100 + (sr.shape == (1, 3, 24, 32))")
    result = run(*folders, "--lr", *options, "--metrics", "psnr_y")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [report["images"][f"{n}_x4.png"]["pfiqa"] for n in "abc"] == pytest.approx([401, 411, 421], abs=1e-3)
    assert report["settings"]["sources"].keys() == {"pfiqa"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "NoneType"),
        ("return torch.zeros(2)", "Tensor"),
        ("return '4.5'", "str"),
        ("return True", "bool"),
        ("return float('nan')", "nan"),
    ],
)
def test_what_a_function_may_not_return(run, folders, module, body, words):
    result = run(*folders, "--lr", *module(body))
    assert result.exit_code == 2
    assert "a_x4.png" in result.stderr and words in result.stderr


def test_a_function_and_lr_that_do_not_fit(run, folders, module, picture, tmp_path):
    options = module("return 1.0")
    lr = options[0]
    assert "MODULE:FUNCTION" in run(*folders, "--lr", lr, "--pfiqa", "my_pfiqa").stderr
    assert "'nobody'" in run(*folders, "--lr", lr, "--pfiqa", "nobody:f").stderr
    assert "'pfiqa'" in run(*folders, "--lr", lr, "--pfiqa", "my_pfiqa:pfiqa").stderr
    result = run(*folders, "--lr", *options, "--scale", 2)
    assert result.exit_code == 2 and all(words in result.stderr for words in ("ax4.png", "8x6", "32x24"))
    (lr / "bx4.png").rename(lr / "a_x4.png")
    result = run(*folders, "--lr", *options)
    assert result.exit_code == 2
    assert all(words in result.stderr for words in ("--lr: ", "2 LR images", "a.png", "a_x4.png ax4.png"))
    (lr / "a_x4.png").unlink()
    assert "--lr: 0 LR images for b.png" in run(*folders, "--lr", *options).stderr


def test_two_runs_on_one_file(run, folders, tmp_path):
    """The second is refused at once and touches nothing; when the first has ended, it takes over its rows."""
    out = tmp_path / "m.csv"
    with file_lock(out):
        result = run(*folders, "--out", out)
        assert result.exit_code == 2 and not out.exists()
        assert f"--out {out}: another run" in result.stderr
    assert run(*folders, "--out", out).exit_code == 0
    assert "3 of 3 rows taken from" in run(*folders, "--out", out).stderr
    (tmp_path / "file").write_text("x")
    result = run(*folders, "--out", tmp_path / "file" / "m.csv")
    assert result.exit_code == 2 and "--out" in result.stderr
