"""``spectrim bench``: how long a forward pass takes, dense against compressed."""

import json
from pathlib import Path
from typing import Annotated

import typer

from spectrim.cli import options
from spectrim.cli.errors import values


def bench(
    model: options.Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An artifact.")],
    data: options.MaybeData = None,
    image_size: options.ImageSize = None,
    image_channels: options.ImageChannels = None,
    classes: options.Classes = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images in the batch.")] = 1,
    rounds: Annotated[int, typer.Option(metavar="N", help="Figures to take of each; they take turns.")] = 30,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads that operations may use.")] = None,
    as_json: options.AsJSON = False,
    cpu: options.Cpu = False,
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels",
            help="Compile the kernels first; those that compress or an earlier run compiled are used anyway.",
        ),
    ] = False,
    restore: Annotated[
        bool,
        typer.Option("--restore", help="Give pointwise layers whose bands run no faster here all frequencies back."),
    ] = False,
) -> None:
    """Time a network and its compressed self, side by side, in evaluation mode.

    "decoded" is the artifact as it loads; "finalized" has layers in another form (factored, two
    stages, bands) where that is measured to be faster; what was measured of each of them is told. Bands stay where they
    are slower too, as the network must compute what it did; with --restore they do not.

    \b
    Examples:
      spectrim bench lenet5 runs/a/model.safetensors --data digits
      spectrim bench torchvision:resnet18 runs/p/model.safetensors --image-size 224 --image-channels 3 --threads 1
    """
    with values():
        from spectrim.kernels.building import build, compiled
        from spectrim.training.assessment import compare_speed
        from spectrim.training.setting import fit_for

        fit = fit_for(data, image_size=image_size, channels=image_channels, num_classes=classes)
        if kernels or compiled():
            build()
        found = compare_speed(
            model, file, fit, batch_size=batch_size, rounds=rounds, threads=threads, cpu=cpu, restore=restore
        )
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for name, row in found.items():
        speedup = f"  {row['speedup']:.2f}x as fast" if "speedup" in row else ""
        without = row.get("macs_without_transforms")
        told = "" if without is None else f" ({without:,} without transforms)"
        typer.echo(
            f"{name:<10} {row['min']:>9.3f} ms (median {row['median']:.3f})  {row['macs']:>14,} MACs{told}{speedup}"
        )
    for form in found["finalized"].get("forms", []):
        times = ", ".join(f"{name} {ms:.4f}" for name, ms in form["ms"].items())
        typer.echo(f"  {form['site']}: {form['taken']} ({times} ms)")
