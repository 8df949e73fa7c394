"""Run BasicSR's own training with our losses, models and metrics registered.

Reached by ``srpl basicsr -opt x.yml``, or under torchrun by ``-m sr_perceptual_loss.integrations.basicsr_runner``.

This file is beside the package ``basicsr/`` and not in it, because importing that package imports BasicSR, and the path
must be arranged before: a project's partial ``basicsr/`` folder in the working directory would hide the real one.

Spawned data-loader workers re-import the module that ``__main__.__spec__`` names. The runner sets it to this module,
whose import installs the shims; with ``runpy`` a worker would run the user's script and fail on BasicSR's import.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sr_perceptual_loss.checks import nearest
from sr_perceptual_loss.errors import InputError, InstallError, NonFiniteError, UnknownNameError, WeightsError
from sr_perceptual_loss.integrations.basicsr_shim import install_shims, require_basicsr

__all__ = ["main", "prepare", "run"]

install_shims()

_THIS = "sr_perceptual_loss.integrations.basicsr_runner"


def run(basicsr_args: Sequence[str], imports: Sequence[str] = (), script: str | Path | None = None) -> None:
    """Train.

    Args:
        basicsr_args: for BasicSR's own parser: ``-opt x.yml --auto_resume --launcher pytorch ...``.
        imports: modules of a project to import first (its archs and models), beside the script, in the working
            directory, or in its partial ``basicsr/``.
        script: a project's own start script; without it, ``basicsr.train.train_pipeline`` runs in the working
            directory.

    Raises:
        InputError: option file, script or module not found; an option that would be ignored or would fail later.
        UnknownNameError, WeightsError: a model, loss, network, dataset or metric that cannot be built.
        InstallError: no whole BasicSR.
    """
    if script is not None and not Path(script).is_file():
        raise InputError(f"--script {script}: no such file.")
    # BasicSR leaves 1e-4 and -1 as text there; with a tag it makes numbers of them.
    arguments = [re.sub(r"=(-[\d.]+|[-+]?[\d.]+[eE][-+]?\d+)$", r"=!!float\1", argument) for argument in basicsr_args]
    file = _option_file(arguments)
    if file is not None and not file.is_file():
        raise InputError(f"-opt {file}: no such file in {Path.cwd()}.")
    sys.argv = [str(script) if script is not None else "basicsr/train.py", *arguments]
    prepare(imports, script)
    train: Any = importlib.import_module("basicsr.train")
    stock = importlib.import_module("basicsr.utils.options").parse_options
    train.parse_options = partial(_parse_options, stock)
    train.load_resume_state = partial(_load_resume_state, train.check_resume)
    recording = importlib.import_module("sr_perceptual_loss.integrations.basicsr.recording")
    train.init_tb_logger = recording.group_tags(train.init_tb_logger)
    try:
        if script is None:
            train.train_pipeline(str(Path.cwd()))
            return
        # In __main__ itself and not by runpy, so that what the script defines can be pickled; __spec__ stays ours.
        main: dict[str, Any] = sys.modules["__main__"].__dict__
        main["__file__"] = str(Path(script).resolve())
        exec(compile(Path(script).read_bytes(), str(script), "exec"), main)
    except KeyError as error:
        # What BasicSR's registries say, with the nearest name.
        if missing := re.search(r"No object named '(.+)' found in '(\w+)' registry", str(error)):
            name, kind = missing.groups()
            registry = getattr(importlib.import_module("basicsr.utils.registry"), f"{kind.upper()}_REGISTRY")
            raise UnknownNameError(f"no {kind} '{name}' is registered.{nearest(name, registry.keys())}") from error
        raise


def prepare(imports: Sequence[str] = (), script: str | Path | None = None) -> None:
    """Make BasicSR importable, register our parts, import a project's modules; args and errors as in :func:`run`."""
    home = Path(script).resolve().parent if script is not None else Path.cwd()
    _arrange_path(home, front=script is not None)
    require_basicsr()
    sys.modules["__main__"].__spec__ = importlib.util.find_spec(_THIS)  # for spawned workers
    importlib.import_module("sr_perceptual_loss.integrations.basicsr")
    for name in imports:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.split(".")[0]):
                raise
            raise InputError(
                f"--import {name}: no such module in {home} or on the path; name a module or package there, without "
                "'.py'."
            ) from error


def _arrange_path(home: Path, front: bool) -> None:
    """Keep a partial ``basicsr/`` from hiding the real one; prefer a whole clone in the working directory.

    A folder with a partial basicsr goes to the end of the path, since the project's own modules are imported from it;
    so does that basicsr folder, from which CAMixerSR takes ``archs`` and ``models`` as top-level names. The folder of a
    script comes first, as Python itself would have it.
    """
    folders = list(dict.fromkeys([str(home), str(Path.cwd())]))
    partial = {f for f in folders if (Path(f) / "basicsr").is_dir() and not _is_whole(Path(f))}
    path = [p for p in sys.path if str(Path(p or ".").resolve()) not in partial]
    first = [f for f in folders if f not in partial and (_is_whole(Path(f)) or (front and f == str(home)))]
    path = [*first, *(p for p in path if p not in first)]
    last = [*folders, *(str(Path(f) / "basicsr") for f in folders if f in partial)]
    sys.path[:] = [*path, *(f for f in last if f not in path)]


def _is_whole(folder: Path) -> bool:
    return all((folder / "basicsr" / part).is_dir() for part in ("utils", "archs", "losses"))


def _option_file(arguments: Sequence[str]) -> Path | None:
    """The file after ``-opt``; what is wrong with the command line is reported by BasicSR's parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-opt", nargs="?", type=Path)
    return parser.parse_known_args(arguments)[0].opt


def _parse_options(stock: Callable[..., Any], root_path: str, is_train: bool = True) -> Any:
    """BasicSR's ``parse_options``; what is wrong with the file is reported before anything is written.

    Called inside of ``train_pipeline``, when a script has registered its models.
    """
    option_file = importlib.import_module("sr_perceptual_loss.integrations.basicsr.option_file")
    projects = importlib.import_module("sr_perceptual_loss.integrations.basicsr.projects")
    option_file.read_exponents()
    file = _option_file(sys.argv[1:])
    if file is not None:
        option_file.check_file(file)
    try:
        opt, arguments = stock(root_path, is_train)
    except Exception as error:
        if file is not None and hasattr(error, "problem_mark"):  # that of PyYAML's errors
            raise option_file.yaml_error(file, error) from None
        if "--force_yml" in sys.argv and isinstance(error, LookupError | TypeError | ValueError):
            raise InputError(f"--force_yml: {error!r}; expected section:key=value, no entries of lists.") from error
        raise
    projects.check_losses(opt)
    return opt, arguments


def _load_resume_state(check_resume: Callable[..., None], opt: dict[str, Any]) -> Any:
    """BasicSR's ``load_resume_state``, which needs a GPU and takes the newest file, whole or not."""
    saving = importlib.import_module("sr_perceptual_loss.integrations.basicsr.saving")
    if opt["auto_resume"]:
        newest = saving.newest_state(Path("experiments") / opt["name"] / "training_states", opt)
        path, state = newest or (None, None)
        opt["path"]["resume_state"] = path and str(path)
    elif path := opt["path"].get("resume_state"):
        state = saving.read_state(Path(path), opt)
    else:
        return None
    if state is not None:
        check_resume(opt, state["iter"])
    return state


def main(argv: Sequence[str] | None = None) -> None:
    """Module form: ``[--import MODULE] [--script FILE] -opt x.yml <BasicSR's options>``."""
    parser = argparse.ArgumentParser(prog=f"python -m {_THIS}", add_help=False, allow_abbrev=False)
    parser.add_argument("--import", dest="imports", action="append", default=[])
    parser.add_argument("--script", default=None)
    ours, theirs = parser.parse_known_args(argv)
    try:
        run(theirs, ours.imports, ours.script)
    except (InputError, InstallError, NonFiniteError, UnknownNameError, WeightsError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
