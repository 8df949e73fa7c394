"""Training files: typed, unknown keys fail, everything is checked when the file is read."""

from __future__ import annotations

import pytest
import yaml

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.training.config import read_config

MINIMAL = {"out": "run", "critic": {"name": "rqi_topiq"}, "data": {"dataset": "kadid10k", "root": "/data"}}


def read(tmp_path, content, *overrides):
    path = tmp_path / "train.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_config(path, overrides)


def test_defaults_are_those_of_the_rqi_supplement(tmp_path):
    config = read(tmp_path, MINIMAL)
    assert (config.scheme, config.objective.loss, config.objective.delta) == ("rqi", "huber", 1.0)
    assert (config.optimizer.type, config.optimizer.lr, config.optimizer.weight_decay) == ("adam", 1e-4, 1e-5)
    assert config.input.crop == "input" and config.pairs.pristine is None and not config.pairs.same_distortion


def test_numbers_that_yaml_leaves_as_text_and_overrides(tmp_path):
    text = yaml.safe_dump(MINIMAL) + "optimizer: {lr: 1e-3}\nbatch: 16\n"
    config = read(
        tmp_path, text, "objective.loss=l1", "critic.freeze=[vit., resnet50.]", "data.labels=null", "epochs=3"
    )
    assert config.optimizer.lr == 1e-3 and config.batch == 16
    assert config.objective.loss == "l1" and config.critic.freeze == ("vit.", "resnet50.") and config.epochs == 3


def test_what_is_written_reads_back_the_same(tmp_path):
    config = read(tmp_path, MINIMAL, "critic.config.layers=[1, 1, 1, 1]", "schedule.t_max=50")
    again = read(tmp_path, config.as_dict())
    assert again == config and again.critic.config == {"layers": [1, 1, 1, 1]}


@pytest.mark.fault(75)
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objectiv.loss=l1", ["objectiv", "Did you mean 'objective'"]),
        ("objective.los=l1", ["objective: unknown key 'los'", "'loss'"]),
        ("objective.loss=l3", ["objective.loss", "l3"]),
        ("batch=0", ["batch", ">= 1"]),
        ("batch=many", ["batch", "many"]),
        ("batch=true", ["batch: got True", "whole number"]),
        ("batch=null", ["batch: got None"]),
        ("optimizer.lr=-1", ["optimizer.lr", "-1"]),
        ("data.root=[1]", ["data.root", "a path"]),
        ("critic.config=3", ["critic.config", "a section"]),
        ("pairs=3", ["pairs: got 3", "section"]),
        ("pairs.same_distortion=1", ["pairs.same_distortion", "true or false"]),
        ("epochs", ["--set", "section.key=value"]),
        ("epochs.x=1", ["'epochs' is a value"]),
    ],
)
def test_faults_name_key_and_cure(tmp_path, override, words):
    content = {**MINIMAL, "epochs": 2}
    with pytest.raises(InputError) as error:
        read(tmp_path, content, override)
    assert all(word in str(error.value) for word in words), error.value


def test_missing_keys_and_files(tmp_path):
    with pytest.raises(InputError, match=r"data\.root: is missing"):
        read(tmp_path, {**MINIMAL, "data": {"dataset": "kadid10k"}})
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.yml")
    with pytest.raises(InputError, match="no valid YAML"):
        read(tmp_path, "a: [")
    with pytest.raises(InputError, match="expected sections"):
        read(tmp_path, "- 1")


def test_combinations_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="belongs to scheme 'rqi'"):
        read(tmp_path, MINIMAL, "scheme=mos", "pairs.same_distortion=true")
    with pytest.raises(InputError, match="brings its own constructor arguments"):
        read(tmp_path, MINIMAL, "critic.weights=a.safetensors", "critic.config.dim=8")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff\xfe", "no text in UTF-8"), (b"epochs: 2001-99-99", "no valid YAML"), (b"[" * 5000, "no valid YAML")],
)
def test_files_that_yaml_stumbles_over(tmp_path, content, words):
    """Found by the fuzzers."""
    (tmp_path / "x.yml").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_config(tmp_path / "x.yml")


def test_keys_that_are_no_text_and_numbers_beyond_floats(tmp_path):
    with pytest.raises(InputError, match="unknown key '3'"):
        read(tmp_path, {**MINIMAL, 3: 4})
    with pytest.raises(InputError, match=r"optimizer\.lr: got a whole number that is too large"):
        read(tmp_path, {**MINIMAL, "optimizer": {"lr": 10**400}})
