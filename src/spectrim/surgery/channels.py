"""The groups of channels of a model that can be cut: what must go with what, found by watching one forward pass."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from spectrim.errors import UnsupportedError, first_line
from spectrim.nn.channel_map import ChannelMap
from spectrim.surgery.atoms import Atoms, Ids, Label, Labels, along
from spectrim.surgery.layers import rule_of
from spectrim.surgery.outputs import tensors_in
from spectrim.surgery.prune import Cut, PruneChannels
from spectrim.surgery.sites import dotted, walk
from spectrim.surgery.trace import Trace
from spectrim.surgery.tracing import Tracer

Axis = tuple[str, int]
"""A tensor's dotted name and one of its dimensions. Dimension 1 of a :class:`ChannelMap`'s source stands for the channels
that it reads."""


@dataclass(frozen=True)
class Reader:
    """A layer that reads channels of a group.

    Attributes:
        path: Of the layer.
        units: For each input channel of the layer the unit that it belongs to, or -1.
    """

    path: str
    units: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Channels that some layers write together, and all that has to follow when some of them go.

    Attributes:
        path: The first of the layers that write them, which speaks for the group.
        axis: Where that layer writes them.
        writers: All of them.
        width: How many channels that layer writes.
        units: What can go alone: for each axis that it reaches, the indices there. In the order of the first layer.
        readers: The layers that read the group.
        locked: How many units cannot go, and why the first of them cannot.
    """

    path: str
    axis: Axis
    writers: tuple[str, ...]
    width: int
    units: tuple[Mapping[Axis, tuple[int, ...]], ...]
    readers: tuple[Reader, ...]
    locked: tuple[int, str] = (0, "")


@dataclass(frozen=True)
class Left:
    """A layer whose output channels cannot be cut."""

    path: str
    reason: str


def groups(model: nn.Module, inputs: Sequence[Any]) -> tuple[list[Group], list[Left]]:
    """All groups of channels of a model, and the layers that none of their channels can leave.

    The model runs once on the inputs, in evaluation mode, and is as before.

    Args:
        model: Any module, with plain parameters.
        inputs: The arguments of its forward, one image is enough.

    Raises:
        UnsupportedError: The forward fails on them, or returns no tensor.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> found, left = groups(net, [torch.zeros(1, 3, 5, 5)])
    >>> found[0].path, len(found[0].units), dict(found[0].units[2])
    ('0', 8, {('0.weight', 0): (2,), ('0.bias', 0): (2,), ('2.weight', 1): (2,)})
    >>> left
    [Left(path='2', reason='is the output of the model')]
    """
    atoms, axes, labels = _start(model)
    trace = Trace(atoms, labels)
    tracer = Tracer(trace)
    with still(model), torch.no_grad(), _maps(model, trace, axes):
        try:
            with tracer:
                output = model(*inputs)
        except Exception as error:
            reason = first_line(error)
            raise UnsupportedError(
                f"asked to follow the channels of {type(model).__name__} through its forward, which failed on the "
                f"calibration batch: {reason}. Check the shape of the batches, and that the model runs on them."
            ) from error
        outputs = list(tensors_in(output))
        if not outputs:
            raise UnsupportedError(
                f"asked to follow the channels of {type(model).__name__} through its forward, which returned a "
                f"{type(output).__name__} with no tensor in it. Return the tensors, or something that holds them."
            )
        for tensor in outputs:
            atoms.lock(trace.of(tensor), "is the output of the model")
    return _grouped(model, atoms, axes, tracer.read)


def cut(model: nn.Module, group: Group, gone: Sequence[int], note: str = "") -> PruneChannels:
    """The edit that removes units of a group.

    Args:
        model: That the group is of.
        group: One of its groups.
        gone: Numbers of the units that go; at least one unit stays.
        note: For people.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> found, _ = groups(net, [torch.zeros(1, 3, 5, 5)])
    >>> _ = cut(net, found[0], [0, 5]).prepare(net)()
    >>> net[0].weight.shape, net[2].weight.shape
    (torch.Size([6, 3, 3, 3]), torch.Size([4, 6, 1, 1]))
    """
    reach: dict[Axis, set[int]] = {}
    for unit in gone:
        for axis, indices in group.units[unit].items():
            reach.setdefault(axis, set()).update(indices)
    alike: dict[tuple[int, ...], list[tuple[str, int, tuple[int, ...]]]] = {}
    for (site, dim), where in reach.items():
        path, _, name = site.rpartition(".")
        shape = tuple(cast(Tensor, getattr(model.get_submodule(path), name)).shape)
        alike.setdefault(tuple(sorted(where)), []).append((site, dim, shape))
    cuts = tuple(Cut(indices, tuple(tensors)) for indices, tensors in alike.items())
    return PruneChannels(group.path, tuple(sorted(reach.get(group.axis, ()))), group.width, cuts, note)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module in its own mode again outside."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _start(model: nn.Module) -> tuple[Atoms, dict[Axis, Ids], dict[int, Labels]]:
    """Atoms for every axis of every tensor that a rule can cut; everything else is locked."""
    atoms = Atoms()
    axes: dict[Axis, Ids] = {}
    labels: dict[int, Labels] = {}
    names: dict[int, str] = {}
    for path, module in walk(model):
        rule = rule_of(module)
        cut = set() if rule is None else {*rule.outputs(module), *rule.inputs(module)}
        tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        for name, tensor in tensors.items():
            site = dotted(path, name)
            if id(tensor) in names:  # tied: one tensor, whichever name it has
                for axis, ids in [(axis, ids) for axis, ids in axes.items() if axis[0] == names[id(tensor)]]:
                    axes[site, axis[1]] = ids
                continue
            names[id(tensor)] = site
            found = []
            for dim in range(tensor.ndim):
                if tensor.shape[dim] > 1:
                    ids = atoms.new(tensor.shape[dim])
                    axes[site, dim] = ids
                    found.append(Label((dim,), ids))
                    if (name, dim) not in cut:
                        owner = f"{type(module).__name__} {path!r}"
                        atoms.lock(found[-1:], f"meets {name!r} of {owner}, which is no layer that is understood")
            labels[id(tensor)] = tuple(found)
    return atoms, axes, labels


@contextmanager
def _maps(model: nn.Module, trace: Trace, axes: dict[Axis, Ids]) -> Iterator[None]:
    """While open, a :class:`ChannelMap` reads channels and writes others, instead of letting them pass."""
    handles = []
    for path, module in walk(model):
        if isinstance(module, ChannelMap):
            site = dotted(path, "source")

            def wrote(_: nn.Module, args: tuple[Tensor], out: Tensor, site: str = site) -> None:
                read = along(trace.of(args[0]), 1)
                if (site, 1) not in axes:
                    axes[site, 1] = trace.atoms.new(args[0].shape[1])
                trace.contract(read, Label((1,), axes[site, 1]), "reads a tensor of fixed size")
                trace.put(out, (Label((1,), axes[site, 0]),) if (site, 0) in axes else ())

            handles.append(module.register_forward_hook(wrote))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _grouped(
    model: nn.Module, atoms: Atoms, axes: Mapping[Axis, Ids], used_weights: Collection[int]
) -> tuple[list[Group], list[Left]]:
    roots = {axis: [atoms.find(atom) for atom in ids.tolist()] for axis, ids in axes.items()}
    reaches: dict[int, dict[Axis, list[int]]] = {}
    for axis, atoms_of_axis in roots.items():
        for index, root in enumerate(atoms_of_axis):
            reaches.setdefault(root, {}).setdefault(axis, []).append(index)
    writing, reading = _layers(model, axes)
    groups_found: list[Group] = []
    left: list[Left] = []
    for members in _together(writing, roots):
        leader = members[0]
        used = [path for path in members if id(_weight(model, path)) in used_weights]
        order = dict.fromkeys(root for path in members for root in roots[writing[path]])
        free = [root for root in order if atoms.reason(root) is None]
        readers = {path: axis for path, axis in reading.items() if set(roots[axis]) & set(free)}
        if not used:
            left += [Left(path, "was not used for the calibration batch") for path in members]
        elif not free:
            reasons = [cast(str, atoms.reason(root)) for root in order]
            left += [Left(path, max(reasons, key=reasons.count)) for path in members]
        elif len(free) == 1 and len(order) == 1:
            left += [Left(path, "its channels only go all together") for path in members]
        elif not readers:
            left += [Left(path, "is read by no layer") for path in members]
        else:
            unit = {root: number for number, root in enumerate(free)}
            stuck = [cast(str, atoms.reason(root)) for root in order if root not in unit]
            groups_found.append(
                Group(
                    leader,
                    writing[leader],
                    tuple(members),
                    len(roots[writing[leader]]),
                    tuple({axis: tuple(where) for axis, where in reaches[root].items()} for root in free),
                    tuple(Reader(path, tuple(unit.get(root, -1) for root in roots[axis])) for path, axis in readers.items()),
                    (len(stuck), stuck[0] if stuck else ""),
                )
            )  # fmt: skip
    return groups_found, left


def _layers(model: nn.Module, axes: Mapping[Axis, Ids]) -> tuple[dict[str, Axis], dict[str, Axis]]:
    """The axis that each layer writes, and the one that it reads, for layers that do not let channels pass through."""
    writing: dict[str, Axis] = {}
    reading: dict[str, Axis] = {}
    for path, module in walk(model):
        rule = rule_of(module)
        if rule is None or not rule.inputs(module):
            continue
        (out, out_dim), (inside, in_dim) = rule.outputs(module)[0], rule.inputs(module)[0]
        if (axis := (dotted(path, out), out_dim)) in axes:
            writing[path] = axis
        if (axis := (dotted(path, inside), in_dim)) in axes and getattr(module, "groups", 1) == 1:
            reading[path] = axis
    return writing, reading


def _weight(model: nn.Module, path: str) -> Tensor:
    module = model.get_submodule(path)
    return cast(Tensor, module.source if isinstance(module, ChannelMap) else module.weight)


def _together(writing: Mapping[str, Axis], roots: Mapping[Axis, list[int]]) -> list[list[str]]:
    """Layers that write a common channel, in the order of the model."""
    sets: list[tuple[list[str], set[int]]] = []
    for path, axis in writing.items():
        paths, channels = [path], set(roots[axis])
        for each in [other for other in sets if other[1] & channels]:
            sets.remove(each)
            paths, channels = each[0] + paths, channels | each[1]
        sets.append((paths, channels))
    place = {path: number for number, path in enumerate(writing)}
    found = [sorted(paths, key=place.__getitem__) for paths, _ in sets]
    return sorted(found, key=lambda paths: place[paths[0]])
