"""The generator of the documentation refuses what is undocumented; the site itself is built by `make docs`."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import griffe
import pytest
from mkdocs.exceptions import PluginError

from sr_perceptual_loss.critics import get_card, list_critics
from sr_perceptual_loss.integrations.host import LOSSES
from sr_perceptual_loss.integrations.metrics import critic_metrics
from sr_perceptual_loss.losses import CriticLoss, GradNormBalancer, Schedule
from sr_perceptual_loss.monitor import HackingGuard
from sr_perceptual_loss.ops.crops import CropPlan

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_yaml_key_is_described(pages):
    parts = [CropPlan, Schedule, GradNormBalancer, HackingGuard, critic_metrics("bgr")["calculate_haarpsi"].prepare]
    for thing in (*parts, *(cls for cls in LOSSES if "Args:" in cls.__doc__)):
        assert pages.described(thing)
    table = pages.key_table(CriticLoss)
    assert "| `form` | `linear` |" in table and "| `crops` | `~` | a [`CropPlan`]" in table


def test_a_key_without_a_description_is_named(pages):
    def loss(weight, margin=0.0):
        """Nothing.

        Args:
            weight: factor.
        """

    with pytest.raises(PluginError, match="margin"):
        pages.described(loss)


def test_a_public_name_or_method_without_a_docstring_is_named(pages, tmp_path):
    (tmp_path / "toy_docs.py").write_text(
        'class Known:\n    """Yes."""\n\n    def told(self):\n        """Yes."""\n\n    def untold(self): ...\n\n'
        'def silent(): ...\n\ndef said():\n    """Yes."""\n'
    )
    toy = griffe.load("toy_docs", search_paths=[tmp_path])
    assert pages.check_documented(toy, ["toy_docs.said"]) == 1
    with pytest.raises(PluginError, match=r"toy_docs\.silent, toy_docs\.Known\.untold"):
        pages.check_documented(toy, ["toy_docs.said", "toy_docs.silent", "toy_docs.Known"])


def test_sphinx_roles_become_links(pages):
    assert (
        pages.plain("a :class:`CropPlan`, see :func:`~x.y`") == "a [`CropPlan`][sr_perceptual_loss.CropPlan], see `x.y`"
    )


def test_the_weights_that_a_user_has_to_write(pages):
    given = {name: pages.weights_key(get_card(name)) for name in list_critics() if not name.startswith("tiny")}
    assert given["haarpsi"] == given["dists"] == ""
    assert given["rqi_maniqa"] == "official" and given["efficient_pban"] == "PATH.safetensors"


def test_pages_name_no_file_that_a_reader_has_not_got():
    for page in DOCS.rglob("*.md"):
        text = page.read_text()
        assert "/shared" not in text, page
        named = re.findall(r"basicsr_configs/\w+\.yml|(?<=python )(?:benchmarks|examples)/[\w/]+\.py", text)
        assert not [file for file in named if not (DOCS.parent / file).is_file()], page
