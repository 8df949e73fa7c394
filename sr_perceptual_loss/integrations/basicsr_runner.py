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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_perceptual_loss.errors import InputError
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
        InputError: option file, script or module not found.
        InstallError: no whole BasicSR.
    """
    if script is not None and not Path(script).is_file():
        raise InputError(f"--script {script}: no such file.")
    arguments = list(basicsr_args)
    if "-opt" in arguments[:-1] and not Path(arguments[arguments.index("-opt") + 1]).is_file():
        raise InputError(f"-opt {arguments[arguments.index('-opt') + 1]}: no such file in {Path.cwd()}.")
    sys.argv = [str(script) if script is not None else "basicsr/train.py", *arguments]
    prepare(imports, script)
    projects = importlib.import_module("sr_perceptual_loss.integrations.basicsr.projects")
    projects.ensure_model(projects.model_type_of(arguments))
    if script is not None:
        # In __main__ itself and not by runpy, so that what the script defines can be pickled; __spec__ stays ours.
        main: dict[str, Any] = sys.modules["__main__"].__dict__
        main["__file__"] = str(Path(script).resolve())
        exec(compile(Path(script).read_bytes(), str(script), "exec"), main)
        return
    train = importlib.import_module("basicsr.train")
    _resume_on_cpu(train)
    train.train_pipeline(str(Path.cwd()))


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
            if error.name != name.split(".")[0]:
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


def _resume_on_cpu(train: Any) -> None:
    """Without CUDA, replace ``load_resume_state`` of the module ``basicsr.train``, which maps to the current GPU."""
    import torch

    if torch.cuda.is_available():
        return

    def load_resume_state(opt: dict[str, Any]) -> Any:
        if opt["auto_resume"]:
            states = (Path("experiments") / opt["name"] / "training_states").glob("[!.]*.state")
            newest = max(states, key=lambda path: float(path.stem), default=None)
            if newest is not None:
                opt["path"]["resume_state"] = str(newest)
        path = opt["path"].get("resume_state")
        if not path:
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        train.check_resume(opt, state["iter"])
        return state

    train.load_resume_state = load_resume_state


def main(argv: Sequence[str] | None = None) -> None:
    """Module form: ``[--import MODULE] [--script FILE] -opt x.yml <BasicSR's options>``."""
    parser = argparse.ArgumentParser(prog=f"python -m {_THIS}", add_help=False, allow_abbrev=False)
    parser.add_argument("--import", dest="imports", action="append", default=[])
    parser.add_argument("--script", default=None)
    ours, theirs = parser.parse_known_args(argv)
    run(theirs, ours.imports, ours.script)


if __name__ == "__main__":
    main()
