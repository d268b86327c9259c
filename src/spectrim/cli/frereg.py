"""``spectrim import-frereg``: from the authors' checkpoints to an artifact."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from spectrim.cli import options
from spectrim.cli.errors import values


def import_frereg(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint of the frereg release.")],
    model: Annotated[str, typer.Option(metavar="MODEL", help="The network it belongs to, in ordinary layers.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the artifact.")],
    where: options.Where = None,
    norm: Annotated[
        Literal["ortho", "backward"], typer.Option(help="backward for checkpoints of the authors' training code.")
    ] = "ortho",
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32"], typer.Option(help="Of the numbers in the artifact.")
    ] = "float16",
    image_size: options.ImageSize = None,
    image_channels: options.ImageChannels = None,
    classes: options.Classes = None,
) -> None:
    """Turn a checkpoint of the frereg package (sparse spectra, loaded with weights_only) into an artifact.

    \b
    Example:
      spectrim import-frereg unet_fr.pt --model unet --out unet.safetensors
    """
    with values():
        import torch

        import spectrim
        from spectrim.artifact import import_frereg_
        from spectrim.training.models import build
        from spectrim.training.setting import fit_for

        network = build(model, fit_for(None, image_size=image_size, channels=image_channels, num_classes=classes))
        import_frereg_(network, file, where=where, norm=norm)
        size = spectrim.save(network, out, dtype=getattr(torch, dtype))
    typer.echo(
        f"{out}: {size.total:,} bytes ({size.payload:,} coefficients, {size.plain:,} other, {size.header:,} header)"
    )
