"""Options that several commands share, and how their texts become values."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spectrim.cli.errors import BadValueError
from spectrim.zoo import ZOO

METHODS = ("frequency-regularization", "cfdp", "pointwise-pruning", "reconstructed-filters")
"""The names of the methods, written down a second time so that completion need not import torch; a test compares."""

RECIPES = ("short", "short-adamw", "official", "hrankplus", "imagenet", "imagenet-cosine")
"""The names of the recipes, likewise."""

WIDTHS = ("vgg16_bn", "vgg16_bn-2.50M", "vgg16_bn-1.90M", "resnet56", "resnet110", "googlenet", "resnet50")
"""What CFDP's ``keep`` has names for, likewise."""

FLOOR = 128
"""Where the paper stops cutting a convolution. Without it, one percent of a first layer is a handful of numbers."""

_SOURCES = ("digits", "mnist:", "cifar10:", "images:", "npz:", "hf:")


def beginning(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A completion that offers these names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=f"A network: {', '.join(ZOO)}, timm:NAME, torchvision:NAME, or package.module:function.",
        autocompletion=beginning((*ZOO, "timm:", "torchvision:")),
    ),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="Images: digits, mnist:DIR, cifar10:PATH, images:DIR, npz:FILE, or hf:NAME.",
        autocompletion=beginning(_SOURCES),
    ),
]
MaybeData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Fit the network to these images: digits, mnist:DIR, cifar10:PATH, images:DIR, npz:FILE, hf:NAME.",
        autocompletion=beginning(_SOURCES),
    ),
]
MethodName = Annotated[
    str,
    typer.Option(metavar="NAME", help="The method; see spectrim methods.", autocompletion=beginning(METHODS)),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FRACTION",
        help="Fraction that stays, in (0, 1]; or GLOB=FRACTION, several times, first match wins. For cfdp also one of its paper's "
        f"networks for the widths there, with --set round_to=1: {', '.join(WIDTHS)}; or such a network and its released program's "
        "list of what goes, 'resnet56:[0.]+[0.3]*29'.",
        autocompletion=beginning(WIDTHS),
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="QUANTITY:NUMBER",
        help="In place of --keep, what cfdp may leave: macs:0.5, params:0.3, latency:0.7 (or time:0.7) of the dense network's, or "
        "params:100000; for pointwise-pruning macs and time, for reconstructed-filters macs and params.",
        autocompletion=beginning(("macs:", "params:", "latency:", "time:")),
    ),
]
Floor = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COUNT", help=f"Least coefficients that a tensor keeps ({FLOOR}); or GLOB=COUNT, several times."
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(metavar="CURVE", help="How the kept count falls: geometric, halving, linear, cosine, at-once."),
]
Score = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How cfdp ranks channels: ortho, paper, official, l1, l2, random; how pointwise-pruning weighs frequencies: "
        "measured, output, energy.",
        autocompletion=beginning(("ortho", "paper", "official", "l1", "l2", "random", "measured", "output", "energy")),
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of the method, several times."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Only these layers, several times; a leading ! leaves layers out."),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Pretrained weights: safetensors, or a state dict (loaded with weights_only)."),
]
ImageSize = Annotated[int | None, typer.Option(metavar="PIXELS", help="Scale images to a square of this side.")]
Normalize = Annotated[
    Literal["data", "imagenet", "half", "none"],
    typer.Option(
        help="Statistics that pixels are scaled by; pretrained networks want the ones they were trained with."
    ),
]
ImageChannels = Annotated[int | None, typer.Option(metavar="N", help="Channels of the images, if no --data says so.")]
Classes = Annotated[int | None, typer.Option(metavar="N", help="Number of classes, if no --data says so.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Leave an accelerator alone.")]


def writable(out: Path) -> None:
    """Refuse a file in a folder that is not there, before any time is spent on what is to be in it.

    >>> writable(Path("nowhere/model.onnx"))
    Traceback (most recent call last):
    spectrim.cli.errors.BadValueError: --out nowhere/model.onnx: there is no folder 'nowhere'. Make it first, or choose another place.
    """
    if not out.parent.is_dir():
        raise BadValueError(
            f"--out {out}: there is no folder {str(out.parent)!r}. Make it first, or choose another place."
        )


def settings(
    method: str,
    keep: list[str] | None,
    floor: list[str] | None,
    schedule: str | None,
    others: list[str] | None,
    *,
    score: str | None = None,
    target: str | None = None,
) -> dict[str, Any]:
    """The hyper-parameters that were typed; where no floor was, the paper's for convolutions.

    >>> settings("frequency-regularization", ["layer1.*=0.1", "*=0.02"], ["8"], None, ["order=linf"])
    {'order': 'linf', 'keep': {'layer1.*': 0.1, '*': 0.02}, 'floor': 8}
    >>> settings("cfdp", ["resnet56"], None, None, ["round_to=1"])
    {'round_to': 1, 'keep': 'resnet56'}
    """
    found = {name: _parsed(value) for name, value in (_pair("--set", text) for text in others or ())}
    if keep:
        named = method == "cfdp" and len(keep) == 1 and "=" not in keep[0] and not _is_number(keep[0])
        found["keep"] = keep[0] if named else _per_glob("--keep", keep, float)
    if floor:
        found["floor"] = _per_glob("--floor", floor, int)
    elif method == "frequency-regularization" and not {"floor", "compat"} & found.keys():
        found["floor"] = FLOOR
    if schedule is not None:
        found["schedule"] = schedule
    if score is not None:
        found["score"] = score
    if target is not None:
        found["target"] = target
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _per_glob(option: str, texts: list[str], number: Callable[[str], Any]) -> Any:
    def value(text: str) -> Any:
        try:
            return number(text)
        except ValueError as error:
            kind = "a whole number" if number is int else "a number"
            raise BadValueError(f"{option} takes {kind}, or GLOB={kind}, got {text!r}.") from error

    if len(texts) == 1 and "=" not in texts[0]:
        return value(texts[0])
    pairs: Mapping[str, str] = dict(_pair(option, text) for text in texts)
    return {glob: value(text) for glob, text in pairs.items()}


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=") if option != "--set" else text.partition("=")
    if not equals or not name or not value:
        raise BadValueError(f"{option} takes {'NAME' if option == '--set' else 'GLOB'}=VALUE here, got {text!r}.")
    return name, value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
