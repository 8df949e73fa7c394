"""The command ``srpl``. Data goes to stdout, talk to stderr; exit code 2 means that the input was refused.

Nothing heavy is imported here or at the top of a command's file, so ``srpl --help`` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sr_perceptual_loss.cli import basicsr, convert, evaluate, fetch, metrics, probe, score, train
from sr_perceptual_loss.cli import list as list_
from sr_perceptual_loss.cli.terminal import say

__all__ = ["app", "main"]

REFUSED = 2


class Commands(TyperGroup):
    """Turns the package's own errors into one message and exit code 2, for all commands alike."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Ours can only come from a command that has loaded the package; loading it here would slow --help.
            checks = sys.modules.get("sr_perceptual_loss.errors")
            own = (
                (
                    checks.InputError,
                    checks.InstallError,
                    checks.NonFiniteError,
                    checks.UnknownNameError,
                    checks.WeightsError,
                )
                if checks
                else ()
            )
            if not isinstance(error, own):
                raise
            say(f"error: {error}")
            raise typer.Exit(REFUSED) from None


app = typer.Typer(
    name="srpl",
    cls=Commands,
    help="Image-quality critics for super-resolution: score, measure, train with BasicSR, train and judge critics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _version(asked: bool) -> None:
    if asked:
        from sr_perceptual_loss import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Image-quality critics for super-resolution: score, measure, train with BasicSR, train and judge critics."""


# The commands, one line each.
app.command("list")(list_.list_critics)
app.command("score")(score.score)
app.command("convert")(convert.convert)
app.command("fetch")(fetch.fetch)
app.command("probe")(probe.probe)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("metrics")(metrics.metrics)
# Its own options, then everything that BasicSR's parser knows.
app.command("basicsr", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(basicsr.basicsr)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
