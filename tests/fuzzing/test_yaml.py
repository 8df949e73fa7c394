"""Odd YAML: options of losses and training files give an object that works, or one of the package's errors."""

from __future__ import annotations

import copy
import inspect
import warnings

import pytest
import torch
import yaml
from hypothesis import strategies as st
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, RQILoss, SSIMLoss, SSIMPerceptualRatioLoss, list_critics
from sr_perceptual_loss.checks import check_known_keys
from sr_perceptual_loss.errors import InputError, NonFiniteError, UnknownNameError, WeightsError
from sr_perceptual_loss.lab.training.config import TrainingConfig, read_config

from .test_files import damaged
from .twice import twice

ERRORS = (InputError, UnknownNameError, WeightsError, NonFiniteError)

#: Values of YAML files, right or wrong.
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, 16, 24, 64, -1, 0.5, 0.1, 1e-9, 1e308, -0.0, 10**400, float("nan"), float("inf")]),
    st.sampled_from(["1e-2", "", " ", "nan", "haarpsi", "harpsi", "official", "local", "none", "mean", "sum", "grid"]),
    st.sampled_from(["random", "reflect", "resize", "error", "hinge", "softplus", "linear", "raise", "skip", "bf16"]),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(max_size=6), leaves), inner, max_size=3)
    ),
    max_leaves=6,
)
RANDOM = {"weights": None}
SCHEDULE = {"start": 1, "ramp": 2, "end": 100, "every": 1}
#: Good entries to start from: class, options.
ENTRIES = [
    (CriticLoss, {"critic": "haarpsi", "loss_weight": 0.5, "crops": {"size": 16, "count": 2}, "schedule": SCHEDULE}),
    (CriticLoss, {"critic": "haarpsi", "form": "hinge", "margin": 0.9, "precision": "fp32"}),
    (
        CriticLoss,
        {
            "critic": "tiny_efficient_pban",
            "weights": None,
            "crops": {"size": 32, "position": "grid", "small": "reflect"},
        },
    ),
    (
        RQILoss,
        {
            "critic": "tiny_rqi_maniqa",
            **RANDOM,
            "crops": {"small": "resize", "scales": [1, 2]},
            "reduction": "sum",
            "precision": "fp32",
        },
    ),
    (SSIMLoss, {"loss_weight": "1e-2", "schedule": {"start": 0, "every": 2}}),
    (SSIMPerceptualRatioLoss, {"critic": "haarpsi", "alpha": 0.6, "beta": 0.4, "loss_balance": "grad_norm"}),
    (SSIMPerceptualRatioLoss, {"critic": "haarpsi", "loss_balance": "none"}),
]


def places_in(tree, prefix=()):
    """Every path of keys in a tree of dicts."""
    for key, value in tree.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from places_in(value, (*prefix, key))


@st.composite
def altered(draw, trees_to_start_from, names):
    """A good tree with up to three values replaced, keys added or taken away."""
    tree = copy.deepcopy(draw(st.sampled_from(trees_to_start_from)))
    for _ in range(draw(st.integers(0, 3))):
        *above, key = draw(st.sampled_from(list(places_in(tree))))
        place = tree
        for step in above:
            place = place[step]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove":
            del place[key]
        elif action == "replace":
            place[key] = draw(trees)
        else:
            place[draw(st.one_of(st.sampled_from(names), leaves))] = draw(trees)
        if not tree:
            break
    return tree


names = sorted({name for _, options in ENTRIES for name in options} | {"size", "total", "seed", "loss_wieght"})
entries = st.sampled_from(ENTRIES).flatmap(lambda entry: st.tuples(st.just(entry[0]), altered([entry[1]], names)))


def keyword(options):
    """Only strings can be keywords; YAML allows other keys."""
    return {key: value for key, value in options.items() if isinstance(key, str)}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@twice(entries, cases=200)
def test_option_dictionaries_of_losses(case, folder):
    cls, options = case
    options = keyword(options)
    if _is_large(options):
        return
    sr, hr = make_pair(2, 40, 36)
    sr.requires_grad_()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = _built(cls, options)
            loss.step(3)
            value = loss(sr, hr)
            value.sum().backward()
    except ERRORS as error:
        assert len(str(error)) > 15
        return
    assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(sr.grad).all())


def _built(cls, options):
    """Like the registered classes: unknown keys are refused before the constructor is called."""
    parameters = inspect.signature(cls).parameters
    check_known_keys(cls.__name__, options, list(parameters))
    if any(p.default is p.empty and name not in options for name, p in parameters.items()):
        raise InputError(f"{cls.__name__}: an argument is missing")
    return cls(**options)


def _is_large(options):
    """Left out here: very many crops, and networks of full size, which take seconds to build."""
    crops = options.get("crops")
    count = crops.get("count") if isinstance(crops, dict) else None
    wanted = options.get("critic", "rqi_maniqa")
    full = wanted is None or (wanted in list_critics() and not wanted.startswith(("haarpsi", "tiny_")))
    full = full and options.get("weights", "") is None
    return full or (isinstance(count, int | float) and count > 64)


TRAINING = {
    "out": "runs/x",
    "critic": {"name": "rqi_maniqa", "weights": None, "config": {"side": 32}, "backbone": "random", "freeze": ["vit."]},
    "data": {"dataset": "table", "root": "data", "train_share": 0.8, "split": "contents", "scale": "minmax"},
    "pairs": {"same_distortion": False, "pristine": 1.0, "pristine_share": 0.1, "per_epoch": 10},
    "input": {"resize": 64, "crop": "input", "flip": "both", "cache": 0.0},
    "objective": {"loss": "huber", "delta": 0.1},
    "optimizer": {"type": "adamw", "lr": "1e-4", "weight_decay": 0, "max_norm": 1.0},
    "schedule": {"type": "cosine", "step": 2, "gamma": 0.5, "t_max": 5},
    "validation": {"protocol": "centre", "every": 1, "select": "auto", "limit": 8},
    "checkpoint": {"every": 4},
    "epochs": 2,
    "batch": 4,
    "precision": "bf16",
    "seed": 3,
}
training_names = sorted({path[-1] for path in places_in(TRAINING)} | {"epoch", "lr_", "workers", "labels"})


def read(content, folder, *overrides):
    path = folder / "train.yml"
    path.write_bytes(content)
    try:
        config = read_config(path, overrides)
    except ERRORS as error:
        assert len(str(error)) > 10
        return None
    assert isinstance(config, TrainingConfig)
    # What is accepted can be written and read again; resuming a run does that.
    path.write_text(yaml.safe_dump(config.as_dict()), encoding="utf-8")
    assert yaml.safe_dump(read_config(path).as_dict()) == yaml.safe_dump(config.as_dict())
    return config


@twice(altered([TRAINING], training_names), cases=150)
def test_training_files_with_odd_values(content, folder):
    read(yaml.dump(content).encode(), folder)


@twice(damaged([yaml.safe_dump(TRAINING).encode()]), cases=80)
def test_damaged_training_files(content, folder):
    read(content, folder)


overrides = st.one_of(
    st.text(max_size=12),
    st.tuples(st.sampled_from(training_names), leaves).map(lambda pair: f"{pair[0]}={pair[1]}"),
    st.sampled_from(
        ["a=[", "optimizer.lr={", "epochs=2001-99-99", "x.y.z=1", "=1", "out=&a *b", "seed=!!python/none 1"]
    ),
)


@twice(overrides, cases=20)
def test_overrides_on_the_command_line(text, folder):
    read(yaml.safe_dump(TRAINING).encode(), folder, text)


def test_good_ones_are_taken(tmp_path):
    """The fuzzers start from files that are accepted."""
    assert read(yaml.safe_dump(TRAINING).encode(), tmp_path) is not None
    sr, hr = make_pair(2, 40, 36)
    for cls, options in ENTRIES:
        loss = _built(cls, options)
        loss.step(3)
        assert torch.isfinite(loss(sr, hr)).all()
