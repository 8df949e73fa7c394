"""Pages that are made from the code: critics, YAML keys, Python names, commands. mkdocs-gen-files runs it.

A public name without a docstring, and a YAML key without a description, stop the build.
"""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path
from typing import Any

import griffe
import mkdocs_gen_files
import typer.cli
import typer.main
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from mkdocs.exceptions import PluginError

import sr_perceptual_loss
from sr_perceptual_loss.cli.app import app
from sr_perceptual_loss.critics import CriticCard, get_card, list_critics
from sr_perceptual_loss.critics.registry import critic_class
from sr_perceptual_loss.integrations.host import LOSSES
from sr_perceptual_loss.integrations.metrics import critic_metrics
from sr_perceptual_loss.lab.training import config
from sr_perceptual_loss.losses import GradNormBalancer, Schedule
from sr_perceptual_loss.monitor import HackingGuard
from sr_perceptual_loss.ops.crops import CropPlan
from sr_perceptual_loss.weights.manifest import COMMERCIAL_USE

NAME = "sr_perceptual_loss"
#: Folder of the package -> title of the page with its public names.
TITLES = {"losses": "Losses", "monitor": "Guard and probe", "critics": "Critics", "weights": "Weights"}
OTHERS = "Crops, SSIM, errors"
#: Modules of `integrations` that users do not import.
INTERNAL = {"basicsr_shim"}


def plain(text: str) -> str:
    """Sphinx roles such as ``:class:`Name` `` as code, with a link if it is a public name of the package."""

    def code(match: re.Match[str]) -> str:
        name = match[1].lstrip("~")
        return f"[`{name}`][{NAME}.{name}]" if name in sr_perceptual_loss.__all__ else f"`{name}`"

    return re.sub(r":\w+:`([^`]+)`", code, text)


class Roles(griffe.Extension):
    """Converts the roles of every docstring that mkdocstrings shows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object that is loaded."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)


def summary(thing: Any) -> str:
    """First paragraph of a docstring."""
    return plain(" ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split()))


def described(thing: Any) -> dict[str, str]:
    """Argument -> its text under Args or Attributes.

    Raises:
        PluginError: an argument has none.
    """
    texts: dict[str, str] = {}
    for section in griffe.Docstring(inspect.getdoc(thing) or "").parse("google", warnings=False):
        if section.kind.value in ("parameters", "attributes"):
            texts |= {item.name: " ".join(item.description.split()) for item in section.value}
    keys = list(inspect.signature(thing).parameters)
    if missing := [key for key in keys if not texts.get(key)]:
        raise PluginError(f"{thing.__qualname__}: no description of {', '.join(missing)}; add it to its docstring.")
    return {key: plain(texts[key]) for key in keys}


def key_table(thing: Any) -> str:
    """Markdown table of the arguments, which are the keys, with their defaults."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, text in described(thing).items():
        default = inspect.signature(thing).parameters[key].default
        shown = "required" if default is inspect.Parameter.empty else f"`{in_yaml(default)}`"
        rows.append(f"| `{key}` | {shown} | {text} |")
    return "\n".join(rows)


def in_yaml(value: Any) -> str:
    """A default as it would stand in a YAML file."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(in_yaml, value))}]"
    return {"None": "~", "True": "true", "False": "false"}.get(str(value), str(value))


def fields(section: type) -> str:
    """Source of a section of the training file, without its methods."""
    return inspect.getsource(section).partition("\n    def ")[0].rstrip()


def weights_key(card: CriticCard) -> str:
    """The value of ``weights`` that a user has to write; empty if none."""
    entry = next(iter(card.weights.values()), None)
    if not card.needs_weights or (entry and entry.bundled):
        return ""
    return entry.tag if entry else "PATH.safetensors"


def public_names(package: griffe.Object | griffe.Alias) -> dict[str, list[str]]:
    """Title of a page -> full names of everything public on it: all names in ``__all__`` that users import."""
    pages: dict[str, list[str]] = {title: [] for title in (*TITLES.values(), OTHERS, "Hosts")}
    for name, module in sr_perceptual_loss._MODULE_OF.items():
        pages[TITLES.get(module.partition(".")[0], OTHERS)].append(f"{NAME}.{name}")
    for folder, title in TITLES.items():
        further = set(package[folder].exports) - set(package.exports)
        pages[title] += [f"{NAME}.{folder}.{name}" for name in sorted(further)]
    for name, module in sorted(package["integrations"].modules.items()):
        pages["Hosts"] += [f"{module.path}.{export}" for export in module.exports or () if name not in INTERNAL]
    return pages


def check_documented(package: griffe.Object | griffe.Alias, names: list[str]) -> int:
    """Number of these names and their public methods.

    Raises:
        PluginError: one has no docstring.
    """
    parts = [package[name.removeprefix(f"{package.path}.")] for name in names]
    methods = (m for part in parts if part.is_class for m in part.members.values() if m.is_function)
    parts += [method for method in methods if not method.name.startswith("_")]
    if missing := [part.path for part in parts if not part.has_docstring]:
        raise PluginError(f"public names without a docstring: {', '.join(missing)}")
    return len(parts)


def write(path: str, text: str) -> None:
    """A generated page of the site."""
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def main() -> None:
    """Write all generated pages."""
    loader = FileSystemLoader(Path("docs") / "templates")
    templates = Environment(loader=loader, trim_blocks=True, undefined=StrictUndefined)
    templates.globals |= {"summary": summary, "keys": key_table, "fields": fields, "commercial_use": COMMERCIAL_USE}
    cards = [(get_card(name), weights_key(get_card(name))) for name in list_critics()]
    for card, weights in cards:
        page = templates.get_template("critic.md").render(card=card, weights=weights, cls=critic_class(card.name))
        write(f"critics/{card.name}.md", page)
    write("critics/index.md", templates.get_template("critics.md").render(cards=cards))
    write("critics/SUMMARY.md", "".join(f"* [{name}]({name}.md)\n" for name in ("index", *list_critics())))
    keys = templates.get_template("yaml.md").render(
        losses=LOSSES,
        crops=CropPlan,
        schedule=Schedule,
        balance=GradNormBalancer,
        guard=HackingGuard,
        metric=critic_metrics("bgr")["calculate_haarpsi"].prepare,  # type: ignore[attr-defined]
        training=dict.fromkeys((config.TrainingConfig, *config._Section.__subclasses__())),
    )
    write("reference/yaml.md", keys)
    package = griffe.load(NAME)
    pages = public_names(package)
    for title, names in pages.items():
        blocks = "\n\n".join(f"::: {name}" for name in names)
        write(f"reference/{title.split()[0].lower().strip(',')}.md", f"# {title}\n\n{blocks}\n")
    names = [name for names in pages.values() for name in names]
    names += [f"{critic_class(name).__module__}.{critic_class(name).__name__}" for name in list_critics()]
    count = check_documented(package, names)
    log = logging.getLogger("mkdocs.plugins.pages")
    log.info("%d public names, %d with their methods: all documented", len(names), count)
    command = typer.main.get_command(app)
    text = typer.cli.get_docs_for_click(obj=command, ctx=typer.Context(command), name="srpl")
    # In prose "[--a] [--b]" would be a link.
    write("reference/commands.md", re.sub(r"^(?!\$).*", lambda line: line[0].replace("] [", r"] \["), text, flags=re.M))


if __name__ == "<run_path>":
    main()
