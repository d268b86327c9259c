"""The commands of ``spectrim``."""

from importlib.metadata import version
from typing import Annotated

import typer

from spectrim.cli.bench import bench
from spectrim.cli.compress import compress
from spectrim.cli.evaluate import evaluate
from spectrim.cli.export import export
from spectrim.cli.frereg import import_frereg
from spectrim.cli.look import inspect, methods, plan

app = typer.Typer(
    name="spectrim",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spectrim {version('spectrim')}")
        raise typer.Exit


@app.callback()
def _spectrim(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Make trained vision networks smaller and faster in the frequency domain.

    \b
    Start here:
      spectrim compress lenet5 --data digits --method frequency-regularization --keep 0.01 --out runs/a
      spectrim inspect runs/a/model.safetensors
      spectrim eval lenet5 runs/a/model.safetensors --data digits

    \b
    Every command has its own examples:
      spectrim compress --help
    """


app.command()(compress)
app.command()(plan)
app.command()(inspect)
app.command("eval")(evaluate)
app.command()(bench)
app.command()(export)
app.command("import-frereg")(import_frereg)
app.command()(methods)
