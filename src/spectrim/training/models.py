"""From the name of a network to the network, fitted to the data."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectrim.errors import SiteError, UnsupportedError, first_line
from spectrim.training import extras
from spectrim.zoo import ZOO

_CHANNELS = ("in_channels", "in_chans")
_SIZES = ("image_size", "img_size")


@dataclass(frozen=True)
class Fit:
    """What a network is to be built for; what is None is left to the network's own default.

    Attributes:
        channels: Of the images.
        size: Side of the square images, in pixels.
        num_classes: Number of outputs.
    """

    channels: int | None = None
    size: int | None = None
    num_classes: int | None = None


def build(name: str, fit: Fit = Fit()) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: A name of the zoo (``lenet5``), ``timm:NAME``, ``torchvision:NAME``, or ``package.module:function``,
            which is called with those of ``num_classes``, ``in_channels`` (or ``in_chans``) and ``image_size`` (or
            ``img_size``) that it has parameters for.
        fit: The data that it is for.

    Raises:
        SiteError: There is no such network.
        UnsupportedError: The library that has it is not installed, or the network cannot be built for these images.

    >>> type(build("lenet5", Fit(channels=3, size=32))).__name__
    'LeNet5'
    """
    scheme, colon, rest = name.partition(":")
    if not colon:
        if name not in ZOO:
            near = difflib.get_close_matches(name, ZOO, n=3)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else f" The zoo has {', '.join(ZOO)}."
            raise SiteError(
                f"no network {name!r}.{hint} Others are named timm:NAME, torchvision:NAME or package.module:function."
            )
        module, _, function = ZOO[name].partition(":")
        return _called(name, getattr(importlib.import_module(module), function), fit)
    if scheme == "timm":
        return _timm(name, rest, fit)
    if scheme == "torchvision":
        return _torchvision(name, rest, fit)
    return _called(name, _function(name, scheme, rest), fit)


def channels_of(model: nn.Module, offered: int) -> int:
    """How many channels a network's first convolution reads; what is offered if it has none.

    >>> channels_of(nn.Conv2d(3, 8, 3), offered=1)
    3
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return offered if first is None else first.in_channels


def example_for(name: str, model: nn.Module, fit: Fit, batch_size: int = 1) -> Tensor:
    """Random images of the kind that a network is for; 224x224, or what the zoo's networks expect, if nothing says so.

    >>> example_for("lenet5", build("lenet5"), Fit()).shape
    torch.Size([1, 1, 28, 28])
    """
    side = fit.size or (224 if name not in ZOO else 28 if name == "lenet5" else 32)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, channels_of(model, fit.channels or 3), side, side, generator=generator)


def check_output(name: str, model: nn.Module, inputs: Tensor, labels: Tensor, num_classes: int) -> None:
    """Run one small batch and see that scores of the right shape come out.

    Raises:
        UnsupportedError: The network cannot run on these images, or its outputs are something else.
    """
    training = model.training
    try:
        with torch.no_grad():
            scores = model.eval()(inputs)
    except (RuntimeError, ValueError, AssertionError) as error:
        shape = "x".join(map(str, inputs.shape[1:]))
        reason = first_line(error)
        raise UnsupportedError(f"{name} cannot run on images of {shape}: {reason} Try another --image-size.") from error
    finally:
        model.train(training)
    expected = (len(inputs), num_classes, *labels.shape[1:])
    if not isinstance(scores, Tensor):
        raise UnsupportedError(f"{name} returns {type(scores).__name__}; a tensor of class scores was expected.")
    if tuple(scores.shape) != expected:
        raise UnsupportedError(
            f"{name} returns scores of shape {tuple(scores.shape)} for {num_classes} classes; expected {expected}. "
            "Give its function a parameter num_classes, or choose data with as many classes."
        )


def _called(name: str, function: Callable[..., Any], fit: Fit) -> nn.Module:
    parameters = inspect.signature(function).parameters
    offers: dict[str, int] = {}
    for names, value in ((("num_classes",), fit.num_classes), (_CHANNELS, fit.channels), (_SIZES, fit.size)):
        if value is not None and (found := next((each for each in names if each in parameters), None)):
            offers[found] = value
    try:
        model = function(**offers)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(f"{name} could not be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"{name} returned {type(model).__name__}; a torch.nn.Module was expected.")
    return model


def _function(name: str, module: str, function: str) -> Callable[..., Any]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does, so that a module of the user's project is found
    try:
        room = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.split(".", 1)[0] != error.name.split(".", 1)[0]:
            raise
        raise SiteError(f"no network {name!r}: there is no module {module!r} to import from here.") from error
    found: Callable[..., Any] | None = getattr(room, function, None)
    if not callable(found):
        callables = [each for each, value in vars(room).items() if callable(value) and not each.startswith("_")]
        near = difflib.get_close_matches(function, callables, n=3) or callables[:5]
        raise SiteError(f"no network {name!r}: {module!r} has no function {function!r}. It has {', '.join(near)}.")
    return found


def _timm(name: str, rest: str, fit: Fit) -> nn.Module:
    timm = extras.load("timm", extra="vision", purpose=f"the network {name!r}")
    if not timm.is_model(rest):
        near = difflib.get_close_matches(rest, timm.list_models(), n=3)
        raise SiteError(f"no network {name!r} in timm.{_did_you_mean(near)}")
    options = {"num_classes": fit.num_classes, "in_chans": fit.channels}
    return _sized(name, lambda **extra: timm.create_model(rest, **{**_given(options), **extra}), "img_size", fit.size)


def _torchvision(name: str, rest: str, fit: Fit) -> nn.Module:
    models = extras.load("torchvision.models", extra="vision", purpose=f"the network {name!r}")
    if rest not in models.list_models():
        near = difflib.get_close_matches(rest, models.list_models(), n=3)
        raise SiteError(f"no network {name!r} in torchvision.{_did_you_mean(near)}")
    options = _given({"num_classes": fit.num_classes})
    if rest in {"googlenet", "inception_v3"}:  # their second output is for training alone
        options |= {"aux_logits": False, "init_weights": True}
    return _sized(name, lambda **extra: models.get_model(rest, **{**options, **extra}), "image_size", fit.size)


def _sized(name: str, make: Callable[..., Any], keyword: str, size: int | None) -> nn.Module:
    """Transformers must be told the size of the images, convolutional networks do not know the word."""
    try:
        if size is not None and size != 224:
            try:
                return _module(make(**{keyword: size}))
            except TypeError as error:
                if keyword not in str(error):
                    raise
        return _module(make())
    except (TypeError, ValueError, AssertionError) as error:
        raise UnsupportedError(f"{name} could not be built: {error}") from error


def _module(model: Any) -> nn.Module:
    assert isinstance(model, nn.Module)  # noqa: S101  # by contract of the libraries
    return model


def _given(options: dict[str, int | None]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _did_you_mean(near: list[str]) -> str:
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
