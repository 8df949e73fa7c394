"""Checkpoints of absolute quality -> starts of RQI trainings, in the containers in which they are published."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sr_perceptual_loss import critics
from sr_perceptual_loss.critics.registry import create_critic, critic_class
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights import absolute
from sr_perceptual_loss.weights.absolute import ABSOLUTE, recognise
from sr_perceptual_loss.weights.checkpoint import read_checkpoint
from sr_perceptual_loss.weights.container import read, save
from sr_perceptual_loss.weights.convert import convert
from sr_perceptual_loss.weights.matching import own_entries
from sr_perceptual_loss.weights.warm_start import MUST_BE_TRAINED, is_warm_start, warm_start

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
    state, wanted = read(report.out).state, trained("rqi_maniqa")
    for key, value in state.items():
        assert torch.equal(value, wanted[key]) == (key not in report.random), key


def test_full_size_maniqa_layout_has_316_entries_to_take():
    with torch.device("meta"):
        keys = critic_class("rqi_maniqa")().state_dict()
    assert sum(not key.startswith(SHARED["rqi_maniqa"]) for key in keys) == 316


def test_ahiq_container_with_numpy_numbers(ahiq, tmp_path):
    report = start("rqi_ahiq", ahiq, tmp_path / "out.safetensors")
    assert report.wrapper == "regressor_model_state_dict, deform_net_model_state_dict"
    assert set(report.random) == {k for k in trained("rqi_ahiq") if k.startswith(SHARED["rqi_ahiq"])}
    state, wanted = read(report.out).state, trained("rqi_ahiq")
    taken = [key for key in state if key not in report.random]
    assert len(taken) == 20
    assert all(torch.equal(state[key], wanted[key]) for key in taken)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_ahiq_with_backbones_is_complete(ahiq, tmp_path, ending):
    wanted, files = trained("rqi_ahiq"), {}
    for part in ("vit", "resnet50"):
        files[part] = tmp_path / f"{part}{ending}"
        state = entries_of(wanted, part)
        save_file(state, files[part]) if ending == ".safetensors" else torch.save(state, files[part])
    report = start("rqi_ahiq", ahiq, tmp_path / "out.safetensors", backbones=files)
    assert report.random == ()
    found = read(report.out)
    assert found.state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in found.state.items())
    assert found.metadata["srpl.origin"].endswith(f"vit from vit{ending}; resnet50 from resnet50{ending}")
    # Its scores are those of the network that it was taken from.
    with pytest.warns(UserWarning, match="not RQI-trained"):
        critic = create_critic("rqi_ahiq", weights=report.out)
    source = critic_class("rqi_ahiq").tiny().eval()
    source.load_state_dict(wanted, strict=True)
    pair = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(critic.score(*pair), source.score(*pair))


def test_topiq_loads_whole_and_is_marked_all_the_same(tmp_path):
    wanted = trained("rqi_topiq")
    torch.save({"params": wanted}, tmp_path / "t.pth")
    report = start("rqi_topiq", tmp_path / "t.pth", tmp_path / "out.safetensors")
    assert (report.random, report.wrapper) == ((), "params")
    found = read(report.out)
    assert all(torch.equal(value, wanted[key]) for key, value in found.state.items())
    assert found.metadata["srpl.training"] == MUST_BE_TRAINED


def test_header_says_that_it_must_be_trained(maniqa, tmp_path):
    out = tmp_path / "out.safetensors"
    start("rqi_maniqa", maniqa, out, seed=3)
    metadata = read(out).metadata
    assert metadata["srpl.training"] == (
        "warm start, absolute quality, not RQI-trained: must be trained; random (seed 3): "
        "conv0_x.* (2), conv0_x1.* (2), conv0_x2.* (2)"
    )
    assert is_warm_start(metadata)
    assert metadata["srpl.origin"] == "maniqa.pth"
    # A file that was trained from it and saved again is no warm start any more.
    with pytest.warns(UserWarning, match="not RQI-trained"):
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


def test_header_of_a_known_file(maniqa, tmp_path, monkeypatch):
    path = maniqa.rename(tmp_path / "MANIQA_PIPAL-ae6d356b.pth")
    start("rqi_maniqa", path, tmp_path / "out.safetensors")
    metadata = read(tmp_path / "out.safetensors").metadata
    assert metadata["srpl.origin"] == "MANIQA trained on PIPAL"
    assert metadata["srpl.training_data"] == "PIPAL (absolute quality)"
    assert "CC BY-NC-SA 4.0" in metadata["srpl.licence"]
    assert metadata["srpl.commercial_use"] == "unknown"


@pytest.mark.parametrize("how", ["name", "hash"])
def test_known_file_that_fits_is_refused_without_warm_start(tmp_path, how, monkeypatch):
    wanted = trained("rqi_topiq")
    path = tmp_path / ("cfanet_fr_kadid_res50-2c4cc61d.pth" if how == "name" else "renamed.pth")
    torch.save({"params": wanted}, path)
    build, out = critic_class("rqi_topiq").tiny, tmp_path / "out.safetensors"
    if how == "hash":
        # Another file of the same content is one's own training.
        assert convert(path, build(), tmp_path / "own.safetensors").entries == len(wanted)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        known = absolute.AbsoluteCheckpoint("f.pth", digest[:8], "rqi_topiq", "TOPIQ-FR trained on X", "X", "", None)
        monkeypatch.setattr(absolute, "ABSOLUTE", (known,))
    with pytest.raises(WeightsError, match=r"is TOPIQ-FR trained on .*predicts absolute quality.*--warm-start"):
        convert(path, build(), out)
    assert not out.exists()
    assert start("rqi_topiq", path, out).random == ()


def test_table_of_known_files():
    assert {known.critic for known in ABSOLUTE} <= set(critics.list_critics())
    assert all(critics.get_card(known.critic).relative for known in ABSOLUTE)
    for known in ABSOLUTE:
        assert known.sha256 in known.filename
        assert recognise(known.filename, "0" * 64) is known
        assert (recognise("x.pth", known.sha256 + "0" * 56) is known) == bool(known.sha256)
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
        (lambda s: s | {"swintransformer1.layers.0.blocks.1.attn_mask": torch.ones(1, 16, 16)}, "is a constant"),
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


def test_backbone_whose_classifier_is_another_or_absent(ahiq, tmp_path):
    vit = entries_of(trained("rqi_ahiq"), "vit")
    for number, (head, left) in enumerate(
        [({"head.weight": torch.zeros(7, 16), "head.bias": torch.zeros(7)}, 2), ({}, 2)]
    ):
        file = tmp_path / f"{number}.safetensors"
        save_file({k: v for k, v in vit.items() if not k.startswith("head.")} | head, file)
        report = start("rqi_ahiq", ahiq, tmp_path / "o.safetensors", backbones={"vit": file})
        assert sum(name.startswith("vit.") for name in report.random) == left
        assert {"vit.head.weight", "vit.head.bias"} <= set(report.random)
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
def test_wrong_backbones_are_refused_with_words(ahiq, tmp_path, part, change, error, words):
    save_file(change(entries_of(trained("rqi_ahiq"), "vit")), tmp_path / "b.safetensors")
    with pytest.raises(error, match=words):
        start("rqi_ahiq", ahiq, tmp_path / "o.safetensors", backbones={part: tmp_path / "b.safetensors"})
    assert not (tmp_path / "o.safetensors").exists()


def test_only_for_critics_of_differences(tmp_path):
    torch.save(trained("efficient_pban"), tmp_path / "x.pth")
    with pytest.raises(InputError, match="'efficient_pban', which predicts absolute quality itself"):
        start("efficient_pban", tmp_path / "x.pth", tmp_path / "o.safetensors")


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_numpy_numbers_open_no_door(ahiq, tmp_path):
    before = set(torch.serialization.get_safe_globals())
    assert read_checkpoint(ahiq)["loss"] is None
    assert set(torch.serialization.get_safe_globals()) == before
    # Only numbers: arrays and whatever else pickles through numpy stay refused, and so does code beside a number.
    torch.save({"loss": np.float64(1.0), "bad": Bomb(tmp_path / "mark")}, tmp_path / "bomb.pth")
    torch.save({"loss": np.zeros(3)}, tmp_path / "array.pth")
    for name in ("bomb.pth", "array.pth"):
        with pytest.raises(WeightsError, match="refused: it asks for the Python object"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "mark").exists()


def test_parts_are_taken_only_where_the_critic_has_them(tmp_path):
    torch.save({"generator_state_dict": {"a": torch.zeros(1)}, "epoch": 1}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="no state dict found"):
        start("rqi_ahiq", tmp_path / "x.pth", tmp_path / "o.safetensors")


def test_own_training_saved_by_parts_converts_without_warm_start(tmp_path):
    state = trained("rqi_ahiq")
    parts = {f"{part}_state_dict": entries_of(state, part) for part in ("vit", "resnet50", "deform_net", "regressor")}
    torch.save(parts, tmp_path / "x.pth")
    critic = critic_class("rqi_ahiq").tiny()
    assert convert(tmp_path / "x.pth", critic, tmp_path / "o.safetensors").entries == len(state)
    assert all(torch.equal(value, state[key]) for key, value in own_entries(critic).items())
