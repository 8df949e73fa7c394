"""The command ``srpl``. Data goes to stdout, messages to stderr; exit code 2 means that the input was refused.

Nothing heavy is imported here or at the top of a command's file, so ``srpl --help`` is fast.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sr_perceptual_loss import __version__
from sr_perceptual_loss.cli import basicsr, config, convert, evaluate, fetch, metrics, probe, report, score, train
from sr_perceptual_loss.cli import list as list_
from sr_perceptual_loss.cli import map as map_
from sr_perceptual_loss.cli.terminal import log
from sr_perceptual_loss.errors import InputError, InstallError, NonFiniteError, UnknownNameError, WeightsError

__all__ = ["app", "main"]

REFUSED = 2
INTERRUPTED = 130
#: Packages of the extra `lab` that commands import.
LAB = ("accelerate", "filelock", "msgspec", "scipy", "tqdm", "yaml")
#: Of the extra `report`, which is part of `lab`.
REPORT = ("jinja2", "plotly")


class Commands(TyperGroup):
    """Turns the package's errors into one message and exit code 2, for all commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (InputError, InstallError, NonFiniteError, UnknownNameError, WeightsError) as error:
            log(f"error: {error}")
            raise typer.Exit(REFUSED) from None
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in (*LAB, *REPORT):
                raise
            extra = "report" if ctx.invoked_subcommand == "report" else "lab"
            log(f"error: {package} is missing: pip install 'sr_perceptual_loss[{extra}]'")
            raise typer.Exit(REFUSED) from None
        except KeyboardInterrupt:
            log("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="srpl",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Image-quality critics for super-resolution: score, measure, train with BasicSR, train and evaluate critics."""


app.command("list")(list_.list_critics)
app.add_typer(config.app, name="config")
app.command("score")(score.score)
app.command("map")(map_.draw_map)
app.command("convert")(convert.convert)
app.command("fetch")(fetch.fetch)
app.command("probe")(probe.probe)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("metrics")(metrics.metrics)
app.command("report")(report.report)
# Options that it does not know are passed to BasicSR's parser.
app.command("basicsr", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(basicsr.basicsr)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names that the terminal or pipe cannot show are escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except OSError as error:  # a full disk, a folder that may not be written
        with contextlib.suppress(OSError):
            sys.stdout.close()  # else Python would try again at its end, with a traceback
        log(f"error: {error}")
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
