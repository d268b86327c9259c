"""Where a model can be edited: walking it, selecting by name, and finding what is already coded."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from spectrim.errors import SiteError
from spectrim.nn.component import Codec

Where: TypeAlias = str | Sequence[str] | Callable[[str, nn.Module], bool] | None
"""A glob on dotted names, several of them (a leading ``!`` excludes), or a function of name and module."""

Value = TypeVar("Value")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Site:
    """A tensor of a module: ``name`` is the parameter's dotted name, ``path`` the module's."""

    path: str
    tensor: str
    module: nn.Module

    @property
    def name(self) -> str:
        """Dotted name, as in ``state_dict`` of the plain model."""
        return dotted(self.path, self.tensor)


@dataclass(frozen=True)
class Coded:
    """A tensor that lives as a code in a model."""

    path: str
    tensor: str
    module: nn.Module
    codec: Codec
    code: nn.Parameter

    @property
    def site(self) -> str:
        """Dotted name that the dense tensor has in the plain model."""
        return dotted(self.path, self.tensor)


def dotted(path: str, name: str) -> str:
    """Join a module's dotted name and a name in it.

    >>> dotted("layer1.0", "weight"), dotted("", "weight")
    ('layer1.0.weight', 'weight')
    """
    return f"{path}.{name}" if path else name


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model and their dotted names, without what parametrizations hide under them."""
    for path, module in model.named_modules():
        if "parametrizations" not in path.split("."):
            yield path, module


def parameters(model: nn.Module) -> Iterator[Site]:
    """Every parameter that a module itself holds, tied ones once per name; coded tensors are not among them."""
    for path, module in walk(model):
        for tensor, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter is not None:
                yield Site(path, tensor, module)


def parametrized(model: nn.Module) -> Iterator[tuple[Site, ParametrizationList]]:
    """Every tensor that torch's parametrize stands for, ours or somebody else's."""
    for path, module in walk(model):
        if is_parametrized(module):
            for tensor, stack in cast(nn.ModuleDict, module.parametrizations).items():
                yield Site(path, tensor, module), cast(ParametrizationList, stack)


def coded(model: nn.Module) -> list[Coded]:
    """The tensors of a model that live as codes, in the order of its modules.

    >>> coded(nn.Linear(2, 2))
    []
    """
    found = []
    for site, stack in parametrized(model):
        if len(stack) == 1 and isinstance(codec := stack[0], Codec):
            found.append(Coded(site.path, site.tensor, site.module, codec, cast(nn.Parameter, stack.original)))
    return found


def tied(model: nn.Module) -> dict[str, str]:
    """Parameters that are one and the same object under several names: each name with another one of them."""
    names: dict[int, list[str]] = {}
    for site in parameters(model):
        names.setdefault(id(site.module.get_parameter(site.tensor)), []).append(site.name)
    return {name: group[0 if position else 1] for group in names.values() if len(group) > 1
            for position, name in enumerate(group)}  # fmt: skip


def selected(sites: Sequence[Site], where: Where, *, model: nn.Module) -> set[str]:
    """The names of those sites that ``where`` selects.

    A glob matches a site by the parameter's dotted name or by its module's; ``*`` crosses dots.

    Args:
        sites: To choose from.
        where: Which; None selects all.
        model: Named in errors.

    Raises:
        SiteError: A glob matches nothing, or nothing is left.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> sorted(selected(list(parameters(model)), ["*.weight", "!0"], model=model))
    ['1.weight']
    """
    if where is None:
        return {site.name for site in sites}
    if callable(where):
        chosen = {site.name for site in sites if where(site.name, site.module)}
    else:
        patterns = [where] if isinstance(where, str) else list(where)
        for pattern in patterns:
            if not any(matches(site, pattern.removeprefix("!")) for site in sites):
                raise SiteError(_nothing(pattern, sites, model))
        wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
        unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
        wanted = wanted or (["*"] if unwanted else [])
        chosen = {
            site.name
            for site in sites
            if any(matches(site, pattern) for pattern in wanted) and not any(matches(site, p) for p in unwanted)
        }
    if not chosen:
        raise SiteError(
            f"where={where!r} leaves none of the {len(sites)} candidate tensors of {type(model).__name__}. "
            "Loosen it, or leave it out to select all."
        )
    return chosen


def matches(site: Site, pattern: str) -> bool:
    """Whether a glob matches a site's name or its module's."""
    return fnmatch.fnmatchcase(site.name, pattern) or fnmatch.fnmatchcase(site.path, pattern)


def names_tensor(site: Site, where: Where) -> bool:
    """Whether ``where`` names this very tensor: ``pos_embed``, ``*.bias`` or ``*.embed.weight``, not ``*`` or ``*.weight``.

    A function is asked about every tensor of two or more axes.
    """
    if where is None:
        return False
    if callable(where):
        return site.module.get_parameter(site.tensor).ndim >= 2 and where(site.name, site.module)
    # Every norm has a weight: to name one of those, the module's own name has to be spelled out as well.
    literal = 2 if site.tensor == "weight" else 1
    return any(
        fnmatch.fnmatchcase(site.name, pattern) and not _WILD.search(".".join(pattern.split(".")[-literal:]))
        for pattern in ([where] if isinstance(where, str) else where)
    )


def per_site(value: Value | Mapping[str, Value], site: Site) -> Value | None:
    """The value for a site: the value itself, or that of the first glob that matches; None where none does."""
    if not isinstance(value, Mapping):
        return value
    return next((each for pattern, each in value.items() if matches(site, pattern)), None)


def _nothing(pattern: str, sites: Sequence[Site], model: nn.Module) -> str:
    name = pattern.removeprefix("!")
    message = f"where={pattern!r} matches none of the {len(sites)} candidate tensors of {type(model).__name__}."
    others = [site.name for site in parameters(model) if matches(site, name)]
    if others:
        return f"{message} To code {others[0]!r}, which is no convolution or linear weight, name it in full."
    first: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        other = first.setdefault(id(module), path)
        if other != path and fnmatch.fnmatchcase(path, name):
            return f"{message} {path!r} is another name of {other!r}, which selects it."
    nearest = nearest_names(name, (site.name for site in sites))
    if not nearest:
        return message + " spectrim.plan(model, method) without where lists them."
    return message + f" Nearest: {', '.join(map(repr, nearest))}."


def nearest_names(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of the names, or globs over their beginnings, that look like ``name``."""
    known = list(dict.fromkeys(names))
    heads = dict.fromkeys(".".join(parts[:depth]) + ".*" for parts in (n.split(".") for n in known)
                          for depth in range(1, len(parts)))  # fmt: skip
    pool = [*heads, *known] if _WILD.search(name) else [*known, *heads]
    return difflib.get_close_matches(name, pool, n=3, cutoff=0.5)
