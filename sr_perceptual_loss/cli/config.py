"""``srpl config``: the YAMLs that come with the package, for trainings with BasicSR and for trainings of critics."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from sr_perceptual_loss.cli.terminal import log, print_table
from sr_perceptual_loss.errors import InputError, UnknownNameError

__all__ = ["app"]

PACKAGE = Path(__file__).parents[1]
Name = Annotated[str, typer.Argument(help="One of `srpl config list`.", metavar="NAME")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="YAMLs to start from: list, show or copy them.")


def _configs() -> dict[str, Path]:
    """The YAMLs by name: in an installed package those of setup.py's build step, else those of the repository."""
    folders = [PACKAGE / "configs"]
    if not folders[0].is_dir():
        folders = [PACKAGE.parent / "basicsr_configs", PACKAGE.parent / "examples" / "critics"]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yml"))}


def _find(name: str) -> Path:
    configs = _configs()
    if name not in configs:
        from sr_perceptual_loss.checks import nearest  # imports torch

        raise UnknownNameError(f"There is no config '{name}'.{nearest(name, configs)}")
    return configs[name]


def _row(name: str, text: str) -> tuple[str, str, str]:
    """Name, command, and the first sentence below the empty comment line that ends the commands."""
    comment = [line[1:].strip() for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    sentence = " ".join(comment[comment.index("") + 1 :]).partition(". ")[0].rstrip(".")
    return name, comment[0].partition(" -")[0], sentence


@app.command("list")
def list_configs() -> None:
    """List the YAMLs: name, the command that takes them, what they are."""
    rows = [_row(name, path.read_text(encoding="utf-8")) for name, path in _configs().items()]
    print_table(("config", "command", "what it is"), rows)


@app.command()
def show(name: Name) -> None:
    """Print a YAML."""
    typer.echo(_find(name).read_bytes(), nl=False)


@app.command()
def copy(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Folder; made if missing.", metavar="DIR", file_okay=False)],
) -> None:
    """Copy a YAML as DIR/NAME.yml and print its path. A file that exists is never replaced."""
    source, target = _find(name), folder / f"{name}.yml"
    content = source.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise InputError(f"{target} exists and is not replaced. Move it, or name another folder.") from None
    typer.echo(target)
    command = content.decode("utf-8").partition("\n")[0].strip("# \r")
    log(re.sub(rf"\S+/{name}\.yml", lambda _: shlex.quote(str(target)), command))
