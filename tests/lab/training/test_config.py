"""Training files: typed, unknown keys fail, everything is checked when the file is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.training.config import read_config
from sr_perceptual_loss.lab.training.network import build_critic

MINIMAL = {"out": "run", "critic": {"name": "rqi_topiq"}, "data": {"dataset": "kadid10k", "root": "/data"}}
EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "critics").glob("*.yml"))


def read(tmp_path, content, *overrides):
    path = tmp_path / "train.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_config(path, overrides)


def test_defaults_are_those_of_the_rqi_supplement(tmp_path):
    config = read(tmp_path, MINIMAL)
    assert (config.scheme, config.objective.loss, config.objective.delta) == ("rqi", "huber", 1.0)
    assert (config.optimizer.type, config.optimizer.lr, config.optimizer.weight_decay) == ("adam", 1e-4, 1e-5)
    assert config.input.crop == "input" and config.pairs.pristine is None and not config.pairs.same_distortion
    assert config.select == "srcc_mean" and read(tmp_path, MINIMAL, "scheme=mos").select == "srcc"


def test_numbers_that_yaml_leaves_as_text_and_overrides(tmp_path):
    text = yaml.safe_dump(MINIMAL) + "optimizer: {lr: 1e-3}\nbatch: 16\n"
    config = read(
        tmp_path, text, "objective.loss=l1", "critic.freeze=[vit., resnet50.]", "data.labels=null", "epochs=3"
    )
    assert config.optimizer.lr == 1e-3 and config.batch == 16
    assert config.objective.loss == "l1" and config.critic.freeze == ("vit.", "resnet50.") and config.epochs == 3


def test_what_is_written_reads_back_the_same(tmp_path):
    config = read(tmp_path, MINIMAL, "critic.config.layers=[1, 1, 1, 1]", "schedule.t_max=50", "data.root=~/data")
    again = read(tmp_path, config.as_dict())
    assert again == config and again.critic.config == {"layers": [1, 1, 1, 1]}
    assert again.data.root == Path.home() / "data"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path):
    config = read_config(path)
    assert config.critic.name == path.stem.removeprefix("tiny_")
    if path.stem.startswith("tiny_"):
        assert sum(p.numel() for p in build_critic(config.critic, seed=0).parameters()) < 2e6


@pytest.mark.fault(75)
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objectiv.loss=l1", ["'objectiv'", "'objective'"]),
        ("objective.los=l1", ["objective:", "'los'", "'loss'"]),
        ("objective.loss=l3", ["objective.loss", "'l3'", "'l2'"]),
        ("input.crop=inputs", ["input.crop", "'input'"]),
        ("batch=0", ["batch", ">= 1", "0"]),
        ("batch=many", ["batch", "int", "many"]),
        ("batch=true", ["batch", "int", "True"]),
        ("batch=null", ["batch", "None"]),
        ("optimizer.lr=-1", ["optimizer.lr", "-1"]),
        ("optimizer.lr=.nan", ["optimizer.lr", "nan"]),
        ("optimizer.lr=.inf", ["optimizer.lr", "inf"]),
        ("data.root=[1]", ["data.root", "path"]),
        ("critic.config=3", ["critic.config", "3"]),
        ("critic.freeze=[1]", ["critic.freeze[0]", "str"]),
        ("pairs=3", ["pairs", "3"]),
        ("pairs.same_distortion=maybe", ["pairs.same_distortion", "bool"]),
        ("epochs", ["--set", "section.key=value"]),
        ("epochs.x=1", ["--set", "'epochs'"]),
        ("epochs=[1", ["--set", "YAML"]),
    ],
)
def test_faults_name_the_key_and_what_is_expected(tmp_path, override, words):
    content = {**MINIMAL, "epochs": 2}
    with pytest.raises(InputError) as error:
        read(tmp_path, content, override)
    assert all(word in str(error.value) for word in words), error.value


def test_missing_keys_and_files(tmp_path):
    with pytest.raises(InputError, match=r"data\.root"):
        read(tmp_path, {**MINIMAL, "data": {"dataset": "kadid10k"}})
    with pytest.raises(InputError, match=r"none\.yml"):
        read_config(tmp_path / "none.yml")


def test_combinations_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="pairs"):
        read(tmp_path, MINIMAL, "scheme=mos", "pairs.same_distortion=true")
    with pytest.raises(InputError, match=r"critic\.config"):
        read(tmp_path, MINIMAL, "critic.weights=a.safetensors", "critic.config.dim=8")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\xff\xfe\x00\xd8", b"epochs: 2001-99-99", b"[" * 5000, b"- 1", b""])
def test_files_that_are_no_training_file(tmp_path, content):
    (tmp_path / "x.yml").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.yml"):
        read_config(tmp_path / "x.yml")


def test_keys_that_are_no_text_and_numbers_beyond_floats(tmp_path):
    with pytest.raises(InputError, match="3"):
        read(tmp_path, {**MINIMAL, 3: 4})
    with pytest.raises(InputError, match=r"optimizer\.lr"):
        read(tmp_path, {**MINIMAL, "optimizer": {"lr": 10**400}})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("epochs: 1\nepochs: 3\n", ["'epochs'", "line"]),
        ("pairs: {per_epoch: 1, 'per_epoch': 2}\n", ["'per_epoch'"]),
        ("critic: {name: rqi_ahiq}\n", ["'critic'"]),
        ("epochs: !!python/tuple [1]\n", ["not valid YAML"]),
    ],
)
def test_keys_that_stand_twice_and_tags(tmp_path, more, words):
    with pytest.raises(InputError) as caught:
        read(tmp_path, yaml.safe_dump(MINIMAL) + more)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_merged_sections_and_encodings(tmp_path):
    """A key may override the one of a merged section; the file may be UTF-16, not Latin-1."""
    more = (
        "optimizer: &a {lr: 0.1, max_norm: 2}\nobjective: &b {loss: l1}\nschedule: {<<: &c {gamma: 0.1}, gamma: 0.3}\n"
    )
    config = read(tmp_path, yaml.safe_dump(MINIMAL) + more)
    assert config.schedule.gamma == 0.3 and config.optimizer.lr == 0.1
    path = tmp_path / "other.yml"
    path.write_bytes(yaml.safe_dump({**MINIMAL, "out": "caf\u00e9"}, allow_unicode=True).encode("utf-16"))
    assert read_config(path).out == Path("caf\u00e9")
    path.write_bytes("out: caf\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match="not valid YAML"):
        read_config(path)
