"""``spectrim export``: a file for another runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spectrim.cli import options
from spectrim.cli.errors import values

if TYPE_CHECKING:
    from spectrim.measure.choice import Choice


def export(
    model: options.Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An artifact, or a file of weights.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write.")],
    form: Annotated[Literal["onnx"], typer.Option("--format", help="Which runtime.")] = "onnx",
    data: options.MaybeData = None,
    image_size: options.ImageSize = None,
    image_channels: options.ImageChannels = None,
    classes: options.Classes = None,
) -> None:
    """Write a network with the numbers of an artifact for another runtime, and check it there.

    The ONNX file holds its weights, takes batches of any size, and is compared with torch in onnxruntime before it is
    kept. Banded pointwise convolutions and reconstructed filters are measured there and get the form that is fastest; a
    banded one that loses to the dense convolution becomes it again, with the frequencies that were cut, as do all
    where the network as a whole is no faster.

    \b
    Examples:
      spectrim export lenet5 runs/a/model.safetensors --out lenet5.onnx
      spectrim export torchvision:resnet18 runs/p/model.safetensors --data images:photos --out resnet18.onnx
    """
    with values():
        options.writable(out)
        from spectrim.measure.choice import Choice
        from spectrim.training.exporting import export_onnx
        from spectrim.training.models import build, example_for
        from spectrim.training.setting import fit_for
        from spectrim.training.weights import load_file_

        fit = fit_for(data, image_size=image_size, channels=image_channels, num_classes=classes)
        network = load_file_(build(model, fit), file).eval()
        choices: list[Choice] = []
        difference = export_onnx(network, example_for(model, network, fit), out, choices)
    for choice in choices:
        typer.echo(str(choice))
    if told := _together(choices):
        typer.echo(told)
    if told := _restored(choices):
        typer.echo(told)
    typer.echo(
        f"{out}: {out.stat().st_size:,} bytes of {form.upper()}, "
        f"largest difference to torch {difference:.1e} in onnxruntime"
    )


def _restored(choices: "Sequence[Choice]") -> str:
    """Which pointwise layers read all frequencies again, and why."""
    from spectrim.measure.choice import WHOLE

    bands = [choice for choice in choices if "flat" in choice.ms]
    dense = [choice for choice in bands if choice.taken == "dense"]
    if not dense:
        return ""
    whole = any(choice.site == WHOLE and choice.taken == "dense" for choice in choices)
    lost = whole and len(dense) == len(bands) and any(min(choice.ms.values()) < choice.ms["dense"] for choice in bands)
    if lost:
        return f"the network as a whole is no faster with cut layers: all {len(bands)} read all frequencies again"
    return f"{len(dense)} of {len(bands)} cut pointwise layers are faster dense there, and read all frequencies again"


def _together(choices: "Sequence[Choice]") -> str:
    """What all that was measured takes: the whole network where that was timed, else the layers, each with what stands beside it."""
    from spectrim.measure.choice import WHOLE

    whole = [choice for choice in choices if choice.site == WHOLE]
    known = [choice for choice in choices if {"dense", choice.taken} <= choice.ms.keys()]
    if whole:  # of two methods one after the other
        dense, taken, what = whole[0].ms["dense"], whole[-1].ms[whole[-1].taken], "the network"
    elif known:
        dense, taken = (sum(choice.ms[name or choice.taken] for choice in known) for name in ("dense", ""))
        what = "the layers above, each between its neighbours"
    else:
        return ""
    return f"{what}: {dense:.3g} ms dense → {taken:.3g} ms in onnxruntime, one thread"
