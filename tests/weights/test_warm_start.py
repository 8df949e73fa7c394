"""Checkpoints of absolute metrics -> starts of RQI trainings, in the forms in which they are published."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sr_perceptual_loss import critics
from sr_perceptual_loss.critics.registry import create_critic, critic_class
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights import manifest
from sr_perceptual_loss.weights.convert import MUST_BE_TRAINED, convert, is_warm_start, warm_start
from sr_perceptual_loss.weights.file import read, save
from sr_perceptual_loss.weights.manifest import ABSOLUTE, recognise

SHARED = {"rqi_ahiq": ("vit.", "resnet50."), "rqi_maniqa": ("conv0_",)}


def trained(name):
    """A small critic whose entries no seed of a test gives."""
    torch.manual_seed(77)
    critic = critic_class(name).tiny()
    return {key: value.detach().clone() for key, value in critic.state_dict().items()}


def entries_of(state, part):
    return {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}


def ahiq_container(state):
    """As the published AHIQ checkpoint: one dict per trained part, no backbones, numpy numbers beside them."""
    return {
        "epoch": np.int64(33),
        "regressor_model_state_dict": entries_of(state, "regressor"),
        "deform_net_model_state_dict": entries_of(state, "deform_net"),
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": np.float64(1e-4)}]},
        "scheduler_state_dict": {"last_epoch": 33, "_last_lr": [np.float64(5e-5)]},
        "loss": np.float32(0.0123),
    }


@pytest.fixture
def ahiq(tmp_path):
    path = tmp_path / "ahiq.pth"
    torch.save(ahiq_container(trained("rqi_ahiq")), path)
    return path


@pytest.fixture
def maniqa(tmp_path):
    """Flat, and everything but the six entries that only RQI has."""
    path = tmp_path / "maniqa.pth"
    torch.save({k: v for k, v in trained("rqi_maniqa").items() if not k.startswith("conv0_")}, path)
    return path


def start(name, path, out, **options):
    return warm_start(path, critic_class(name).tiny, out, **options)


def test_maniqa_gives_all_but_the_fusion(maniqa, tmp_path):
    report = start("rqi_maniqa", maniqa, tmp_path / "out.safetensors")
    parts = ("conv0_x", "conv0_x1", "conv0_x2")
    assert set(report.random) == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    assert (report.entries, report.wrapper) == (len(trained("rqi_maniqa")), "")
    assert report.source_sha256 == hashlib.sha256(maniqa.read_bytes()).hexdigest()
    state, expected = read(report.out).state, trained("rqi_maniqa")
    for key, value in state.items():
        assert torch.equal(value, expected[key]) == (key not in report.random), key


def test_full_size_maniqa_layout_has_316_entries_to_take():
    with torch.device("meta"):
        keys = critic_class("rqi_maniqa")().state_dict()
    assert sum(not key.startswith(SHARED["rqi_maniqa"]) for key in keys) == 316


def test_ahiq_container_with_numpy_numbers(ahiq, tmp_path):
    report = start("rqi_ahiq", ahiq, tmp_path / "out.safetensors")
    assert report.wrapper == "regressor_model_state_dict, deform_net_model_state_dict"
    assert set(report.random) == {k for k in trained("rqi_ahiq") if k.startswith(SHARED["rqi_ahiq"])}
    state, expected = read(report.out).state, trained("rqi_ahiq")
    taken = [key for key in state if key not in report.random]
    assert len(taken) == 20
    assert all(torch.equal(state[key], expected[key]) for key in taken)


def test_ahiq_with_backbones_is_complete(ahiq, tmp_path):
    expected = trained("rqi_ahiq")
    files = {"vit": tmp_path / "vit.safetensors", "resnet50": tmp_path / "resnet50.pth"}
    save_file(entries_of(expected, "vit"), files["vit"])
    torch.save(entries_of(expected, "resnet50"), files["resnet50"])
    report = start("rqi_ahiq", ahiq, tmp_path / "out.safetensors", backbones=files)
    assert report.random == ()
    file = read(report.out)
    assert file.state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in file.state.items())
    origin = file.metadata["srpl.origin"]
    assert "ahiq.pth" in origin and origin.endswith("; vit from vit.safetensors; resnet50 from resnet50.pth")
    # Its scores are those of the network that it was taken from.
    with pytest.warns(UserWarning, match="warm start"):
        critic = create_critic("rqi_ahiq", weights=report.out)
    source = critic_class("rqi_ahiq").tiny().eval()
    source.load_state_dict(expected, strict=True)
    pair = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(critic.score(*pair), source.score(*pair))


def test_header_says_that_it_must_be_trained(maniqa, tmp_path):
    out = tmp_path / "out.safetensors"
    start("rqi_maniqa", maniqa, out, seed=3)
    metadata = read(out).metadata
    assert metadata["srpl.training"] == (
        "warm start, absolute quality, not RQI-trained: must be trained; random (seed 3): "
        "conv0_x.* (2), conv0_x1.* (2), conv0_x2.* (2)"
    )
    assert is_warm_start(metadata)
    assert "maniqa.pth" in metadata["srpl.origin"] and metadata["srpl.source_sha256"] in metadata["srpl.origin"]
    # A file that was trained from it and saved again is no warm start any more.
    with pytest.warns(UserWarning, match="warm start"):
        loaded = create_critic("rqi_maniqa", weights=out)
    save(loaded, tmp_path / "later.safetensors", training="RQI on PIPAL, 9 epochs")
    assert not is_warm_start(read(tmp_path / "later.safetensors").metadata)


def test_random_entries_follow_the_seed_and_nothing_else(maniqa, tmp_path):
    def run(seed, host):
        torch.manual_seed(host)
        before = torch.get_rng_state()
        out = tmp_path / "x.safetensors"
        start("rqi_maniqa", maniqa, out, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return read(out).state["conv0_x.weight"]

    first = run(0, host=1)
    assert torch.equal(first, run(0, host=2))
    assert not torch.equal(first, run(1, host=1))
    assert first.std() > 0


def test_header_of_a_known_file(maniqa, tmp_path):
    path = maniqa.rename(tmp_path / "MANIQA_PIPAL-ae6d356b.pth")
    start("rqi_maniqa", path, tmp_path / "out.safetensors")
    metadata = read(tmp_path / "out.safetensors").metadata
    # Its hash is another than the one in its name, so that is all that is known.
    assert "has the name of MANIQA trained on PIPAL" in metadata["srpl.origin"]
    assert metadata["srpl.training_data"] == "PIPAL"
    assert "CC BY-NC-SA 4.0" in metadata["srpl.licence"]
    assert metadata["srpl.commercial_use"] == "unknown"


@pytest.mark.parametrize("how", ["name", "hash"])
def test_known_file_that_fits_is_refused_without_warm_start(tmp_path, how, monkeypatch):
    expected = trained("rqi_topiq")
    path = tmp_path / ("cfanet_fr_kadid_res50-2c4cc61d.pth" if how == "name" else "renamed.pth")
    torch.save({"params": expected}, path)
    build, out = critic_class("rqi_topiq").tiny, tmp_path / "out.safetensors"
    said = "has the name of" if how == "name" else "is"
    if how == "hash":
        # Another file of the same content is one's own training.
        assert convert(path, build(), tmp_path / "own.safetensors").entries == len(expected)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        known = manifest.AbsoluteCheckpoint(f"f-{digest[:8]}.pth", "rqi_topiq", "TOPIQ-FR", "X", "", None)
        monkeypatch.setattr(manifest, "ABSOLUTE", (known,))
    with pytest.raises(WeightsError, match=rf"{said} TOPIQ-FR trained on .*absolute quality.*--warm-start"):
        convert(path, build(), out)
    assert not out.exists()
    report = start("rqi_topiq", path, out)
    assert (report.random, report.wrapper) == ((), "params")
    file = read(report.out)
    assert all(torch.equal(value, expected[key]) for key, value in file.state.items())
    assert file.metadata["srpl.training"] == MUST_BE_TRAINED


def test_table_of_known_files():
    assert {known.critic for known in ABSOLUTE} <= set(critics.list_critics())
    assert all(critics.get_card(known.critic).relative for known in ABSOLUTE)
    for known in ABSOLUTE:
        assert recognise(known.filename, "0" * 64) is known
    for digits in ("da3ea303", "ae6d356b", "69bbe5ba", "2c4cc61d"):
        assert digits in recognise("renamed.pth", digits + "0" * 56).filename
    assert recognise("rqi_weights.pt", "0" * 64) is None


@pytest.mark.parametrize("name", ["rqi_ahiq", "rqi_maniqa"])
def test_incomplete_checkpoint_names_warm_start(name, ahiq, maniqa, tmp_path):
    path = {"rqi_ahiq": ahiq, "rqi_maniqa": maniqa}[name]
    with pytest.raises(WeightsError, match=rf"missing: .*srpl convert .* --critic {name} --warm-start$") as error:
        convert(path, critic_class(name).tiny(), tmp_path / "o.safetensors")
    assert "does not fit" in str(error.value)
    assert not (tmp_path / "o.safetensors").exists()


def test_warm_start_is_not_offered_where_it_would_not_help(maniqa, tmp_path):
    state = torch.load(maniqa, weights_only=True) | {"tail": torch.zeros(1)}
    torch.save(state, maniqa)
    with pytest.raises(WeightsError, match="1 extra: tail") as error:
        convert(maniqa, critic_class("rqi_maniqa").tiny(), tmp_path / "o.safetensors")
    assert "--warm-start" not in str(error.value)
    torch.save({"fc.weight": torch.zeros(16, 16)}, tmp_path / "pban.pth")
    with pytest.raises(WeightsError, match="missing") as error:
        convert(tmp_path / "pban.pth", critic_class("efficient_pban").tiny(), tmp_path / "o.safetensors")
    assert "--warm-start" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"tail": torch.zeros(1)}, "1 extra: tail"),
        (lambda s: s | {"conv1.bias": torch.zeros(5)}, r"1 mis-shaped: conv1\.bias got \(5,\) expected \(16,\)"),
        (lambda s: s | {"conv1.bias": torch.full((16,), torch.nan)}, "NaN or infinity"),
        (lambda s: {"other.weight": torch.zeros(1)}, "shares no entry with the critic 'rqi_maniqa'"),
        (lambda s: s | {"swintransformer1.layers.0.blocks.1.attn_mask": torch.ones(1, 16, 16)}, "attn_mask"),
        (lambda s: s | {"swintransformer1.layers.0.blocks.1.attn_mask": torch.tensor(1.0)}, "attn_mask"),
    ],
)
def test_what_does_not_fit_is_an_error(maniqa, tmp_path, change, words):
    torch.save(change(torch.load(maniqa, weights_only=True)), maniqa)
    with pytest.raises(WeightsError, match=words):
        start("rqi_maniqa", maniqa, tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_other_sizes_are_arguments_of_the_critic(maniqa, tmp_path):
    build = partial(critic_class("rqi_maniqa"), **{**critic_class("rqi_maniqa").tiny().config, "scale": 0.13})
    warm_start(maniqa, build, tmp_path / "o.safetensors")
    assert read(tmp_path / "o.safetensors").config["scale"] == 0.13


@pytest.mark.parametrize("head", [{"head.weight": torch.zeros(7, 16), "head.bias": torch.zeros(7)}, {}])
def test_backbone_whose_classifier_differs_or_is_absent(ahiq, tmp_path, head):
    vit = entries_of(trained("rqi_ahiq"), "vit")
    save_file({k: v for k, v in vit.items() if not k.startswith("head.")} | head, tmp_path / "vit.safetensors")
    report = start("rqi_ahiq", ahiq, tmp_path / "o.safetensors", backbones={"vit": tmp_path / "vit.safetensors"})
    assert {k for k in report.random if k.startswith("vit.")} == {"vit.head.weight", "vit.head.bias"}
    assert torch.equal(read(report.out).state["vit.pos_embed"], vit["pos_embed"])


@pytest.mark.parametrize(
    ("part", "change", "error", "words"),
    [
        ("vti", lambda s: s, InputError, r"'vti' is no part of rqi_ahiq\. Did you mean 'vit'\?"),
        ("regressor", lambda s: s, InputError, "has its own 'regressor'"),
        ("vit", lambda s: {k: v for k, v in s.items() if "pos" not in k}, WeightsError, "1 of its entries are missing"),
        ("vit", lambda s: s | {"pos_embed": torch.zeros(1, 5, 16)}, WeightsError, r"mis-shaped: vit\.pos_embed"),
        ("vit", lambda s: s | {"dist_token": torch.zeros(1)}, WeightsError, r"extra: vit\.dist_token"),
    ],
)
def test_wrong_backbones_are_refused(ahiq, tmp_path, part, change, error, words):
    save_file(change(entries_of(trained("rqi_ahiq"), "vit")), tmp_path / "b.safetensors")
    with pytest.raises(error, match=words):
        start("rqi_ahiq", ahiq, tmp_path / "o.safetensors", backbones={part: tmp_path / "b.safetensors"})
    assert not (tmp_path / "o.safetensors").exists()


def test_only_for_critics_of_differences(tmp_path):
    torch.save(trained("efficient_pban"), tmp_path / "x.pth")
    with pytest.raises(InputError, match="'efficient_pban', which predicts absolute quality itself"):
        start("efficient_pban", tmp_path / "x.pth", tmp_path / "o.safetensors")


def test_parts_are_taken_only_where_the_critic_has_them(tmp_path):
    torch.save({"generator_state_dict": {"a": torch.zeros(1)}, "epoch": 1}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="shares no entry"):
        start("rqi_ahiq", tmp_path / "x.pth", tmp_path / "o.safetensors")
