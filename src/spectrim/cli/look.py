"""``spectrim plan``, ``inspect`` and ``methods``: looking before cutting, and after."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectrim.cli import options
from spectrim.cli.errors import BadValueError, values

if TYPE_CHECKING:
    from spectrim.report import ChannelInspection, FrequencyInspection, Inspection


def plan(
    model: options.Model,
    method: options.MethodName = options.METHODS[0],
    keep: options.Keep = None,
    target: options.Target = None,
    floor: options.Floor = None,
    schedule: options.Schedule = None,
    score: options.Score = None,
    settings: options.Set = None,
    where: options.Where = None,
    data: options.MaybeData = None,
    image_size: options.ImageSize = None,
    image_channels: options.ImageChannels = None,
    classes: options.Classes = None,
    weights: options.Weights = None,
    normalize: options.Normalize = "data",
    as_json: options.AsJSON = False,
) -> None:
    """Show what a method would do to a network; nothing is trained or written.

    \b
    Examples:
      spectrim plan lenet5 --keep 0.01
      spectrim plan torchvision:resnet18 --keep 0.05 --where '!fc' --where '!conv1'
      spectrim plan resnet20 --keep 'layer1.*=0.5' --keep '*=0.1' --json
      spectrim plan resnet20 --data cifar10:DIR --method cfdp --score ortho --keep 0.5
      spectrim plan resnet20 --data cifar10:DIR --weights resnet20.safetensors --normalize imagenet \\
          --method cfdp --target macs:0.5
    """
    with values():
        import spectrim
        from spectrim.calibration import NoCalibrationError, NoImageSizeError
        from spectrim.training.job import Job
        from spectrim.training.models import build
        from spectrim.training.setting import calibration_for, fit_for, method_for
        from spectrim.training.waiting import planning_waits
        from spectrim.training.weights import load_file_

        job = Job(
            model=model,
            data=data or "",
            method=method,
            settings=options.settings(method, keep, floor, schedule, settings, score=score, target=target),
        )
        network = build(model, fit_for(data, image_size=image_size, channels=image_channels, num_classes=classes))
        if weights is not None:
            load_file_(network, weights)
        calibration = (
            None if data is None else calibration_for(network, data, image_size=image_size, normalize=normalize)
        )
        found = method_for(job)
        for sentence in planning_waits(found):
            typer.echo(sentence, err=True)
        try:
            planned = spectrim.plan(network, found, where=where, calibration=calibration)
        except NoImageSizeError as error:
            raise BadValueError(
                f"target {target} counts multiplications, which depend on the size of the images: add --data SOURCE, or ask for params."
            ) from error
        except NoCalibrationError as error:
            raise BadValueError(
                f"{method} decides by what layers read, and needs images: add --data SOURCE."
            ) from error
    typer.echo(planned.to_json() if as_json else str(planned))


def inspect(
    what: Annotated[str, typer.Argument(metavar="FILE|MODEL", help="An artifact, or the name of a network.")],
    channels: Annotated[
        bool,
        typer.Option("--channels", help="Score the channels of a network on images, and show what cfdp would cut."),
    ] = False,
    frequencies: Annotated[
        bool,
        typer.Option(
            "--frequencies", help="Show on images what each frequency is worth in what pointwise convolutions read."
        ),
    ] = False,
    keep: options.Keep = None,
    target: options.Target = None,
    score: options.Score = None,
    settings: options.Set = None,
    where: options.Where = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="With --channels or --frequencies: draw them into this file (.png, .svg, .pdf)."
        ),
    ] = None,
    data: options.MaybeData = None,
    image_size: options.ImageSize = None,
    image_channels: options.ImageChannels = None,
    classes: options.Classes = None,
    weights: options.Weights = None,
    normalize: options.Normalize = "data",
    as_json: options.AsJSON = False,
) -> None:
    """Show what is in an artifact, what a network's weights look like in the frequency domain, how its channels score, or what frequencies it reads.

    \b
    Examples:
      spectrim inspect runs/a/model.safetensors
      spectrim inspect resnet20 --weights resnet20.safetensors
      spectrim inspect runs/a/model.safetensors --json
      spectrim inspect resnet20 --channels --data cifar10:DIR --weights resnet20.safetensors --normalize imagenet \\
          --score ortho --keep 0.5 --out scores.png
      spectrim inspect timm:mobilenetv2_100 --frequencies --data images:photos --weights w.safetensors --out spectra.png
    """
    found: Inspection | ChannelInspection | FrequencyInspection
    with values():
        import spectrim
        from spectrim.training.job import Job
        from spectrim.training.models import build
        from spectrim.training.setting import calibration_for, fit_for, method_for
        from spectrim.training.waiting import planning_waits
        from spectrim.training.weights import load_file_

        given = {
            "--keep": keep,
            "--target": target,
            "--score": score,
            "--set": settings,
            "--where": where,
            "--out": out,
        }
        look = "--channels" if channels else "--frequencies" if frequencies else None
        if channels and frequencies:
            raise BadValueError("--channels and --frequencies are two questions. Ask one at a time.")
        if look is None and (stray := [name for name, value in given.items() if value is not None]):
            raise BadValueError(
                f"{stray[0]} is about the scores of channels or frequencies. Add --channels or --frequencies, or leave it out."
            )
        if out is not None:
            options.writable(out)
        if look is not None and data is None:
            raise BadValueError(f"{look} scores what layers read and needs images: add --data SOURCE.")
        if look is not None and Path(what).is_file():
            raise BadValueError(
                f"{look} runs a network on images, and {what!r} is a file. Give the network's name, and --weights {what}."
            )
        if Path(what).is_file():
            found = spectrim.inspect(what)
        else:
            network = build(what, fit_for(data, image_size=image_size, channels=image_channels, num_classes=classes))
            if weights is not None:
                load_file_(network, weights)
            if look is not None and data is not None:
                calibration = calibration_for(network, data, image_size=image_size, normalize=normalize)
                name = "cfdp" if channels else "pointwise-pruning"
                typed = options.settings(name, keep, None, None, settings, score=score, target=target)
                method = method_for(Job(model=what, data=data, method=name, settings=typed))
                for sentence in planning_waits(method):
                    typer.echo(sentence, err=True)
                if isinstance(method, spectrim.CFDP):
                    found = spectrim.inspect_channels(network, method, where=where, calibration=calibration)
                else:
                    assert isinstance(method, spectrim.PointwisePruning)  # noqa: S101 - by its name
                    found = spectrim.inspect_frequencies(network, method, where=where, calibration=calibration)
                if out is not None:
                    found.draw(out)
            else:
                found = spectrim.inspect(network)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else str(found))
    if out is not None and not as_json:
        typer.echo(f"\ndrawn in {out}")


def methods(
    as_json: options.AsJSON = False,
) -> None:
    """List the methods and their settings.

    \b
    Example:
      spectrim methods
    """
    import dataclasses
    import inspect
    import textwrap
    from typing import Any, cast

    from spectrim.methods import METHODS

    rows = [
        {
            "name": name,
            "summary": (method.__doc__ or "").strip().splitlines()[0],
            "settings": {field.name: field.default for field in dataclasses.fields(cast(Any, method))},
            "meanings": _meanings(inspect.getdoc(method) or ""),
        }
        for name, method in METHODS.items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']}\n  {row['summary']}")
        for name, default in cast(dict[str, Any], row["settings"]).items():
            typer.echo(f"    {name:<10} {default if default is not None else '-'}")
            meaning = cast(dict[str, str], row["meanings"]).get(name, "")
            typer.echo(textwrap.fill(meaning, 100, initial_indent=" " * 8, subsequent_indent=" " * 8))


def _meanings(docstring: str) -> dict[str, str]:
    """What a docstring says about each of its arguments, on one line.

    >>> _meanings("Do.\\n\\nArgs:\\n    keep: Fraction\\n        that stays.\\n\\nRaises:\\n    ValueError: No.")
    {'keep': 'Fraction that stays.'}
    """
    block = re.search(r"^Args:\n((?:    .*\n|\n)*)", docstring + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", block[1] if block else "", re.MULTILINE)
    plain = {name: re.sub(r":\w+:`([^`]+)`", r"\1", text).replace("``", "") for name, text in entries}
    return {name: " ".join(text.split()) for name, text in plain.items()}
