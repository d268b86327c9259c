"""Pretrained weights from a file that holds tensors and nothing else."""

import pickle  # for the name of an exception
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import spectrim
from spectrim.artifact.layout import KEY
from spectrim.errors import ArtifactError, first_line
from spectrim.nn.channel_map import ChannelMap

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "model_state", "state_dict_ema")
_SHOWN = 4


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a state dict written by ``torch.save``, by name.

    Nothing in the file is executed. A dictionary within the dictionary ("state_dict", "model") is unwrapped, and the
    prefix "module." of parallel training is taken off.

    Raises:
        ArtifactError: The file is missing, damaged, or holds something else than tensors.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no weights file {str(path)!r}.")
    with path.open("rb") as file:
        pickled = file.read(2) in {b"PK", b"\x80\x02", b"\x80\x04"}
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise ArtifactError(
            f"{path}: neither a safetensors file nor a state dict of plain tensors ({reason}). "
            "Save the weights with torch.save(model.state_dict(), …)."
        ) from error
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise ArtifactError(f"{path}: holds no dictionary of named tensors. Save model.state_dict().")
    state = {str(name): tensor for name, tensor in found.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def load_file_(model: nn.Module, path: Path) -> nn.Module:
    """Fill a network from a file of weights, or from an artifact.

    Raises:
        ArtifactError: The file is missing or damaged, or does not fit the network.
    """
    if is_artifact(path):
        return spectrim.load_(model, path)
    return load_weights_(model, read_weights(path), origin=str(path))


def is_artifact(path: Path) -> bool:
    """Whether a file calls itself an artifact of this project; it may still be damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_weights_(model: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> nn.Module:
    """Copy tensors into a network that has exactly these, by name and shape.

    Args:
        model: Receives the values; as it was if anything does not fit.
        state: Tensors by name.
        origin: Where they come from, the subject of the message.

    Raises:
        ArtifactError: The names or shapes differ; the message has the first few of each kind.
    """
    own = model.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    optional |= {f"{path}.source" for path, module in model.named_modules() if isinstance(module, ChannelMap)}
    problems = [
        _problem("lacks", sorted(own.keys() - state.keys() - optional)),
        _problem("has beside what the network has", sorted(state.keys() - own.keys())),
        _problem(
            "has in another shape",
            [
                f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
                for name in own
                if name in state and state[name].shape != own[name].shape
            ],
        ),
    ]
    if found := [problem for problem in problems if problem]:
        raise ArtifactError(f"{origin} does not fit {type(model).__name__}: it {'; it '.join(found)}.")
    model.load_state_dict(dict(state), strict=False)
    return model


def _problem(verb: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{verb} {', '.join(names[:_SHOWN])}{more}" if names else ""
