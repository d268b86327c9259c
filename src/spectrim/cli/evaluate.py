"""``spectrim eval``: how good a network is with the numbers in a file."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from spectrim.cli import options
from spectrim.cli.errors import values


def evaluate(
    model: options.Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An artifact, or a file of weights.")],
    data: options.Data,
    image_size: options.ImageSize = None,
    normalize: options.Normalize = "data",
    precision: Annotated[Literal["no", "bf16", "fp16"], typer.Option(help="Mixed precision.")] = "no",
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images at a time.")] = 256,
    as_json: options.AsJSON = False,
    cpu: options.Cpu = False,
) -> None:
    """Load an artifact (or weights) into a network and measure it on the test images.

    \b
    Examples:
      spectrim eval lenet5 runs/a/model.safetensors --data digits
      spectrim eval resnet20 resnet20.safetensors --data cifar10:data/cifar --normalize imagenet
    """
    with values():
        from spectrim.training.assessment import assess

        found = assess(
            model,
            file,
            data,
            image_size=image_size,
            normalize=normalize,
            precision=precision,
            batch_size=batch_size,
            cpu=cpu,
        )
    typer.echo(
        json.dumps(found) if as_json else f"{found['metric']} {found['value']:.2%} on {found['images']:,} images"
    )
