"""One stage of generalised pruning: filters that are templates no more start as transformations of those that are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.template_fitting import OutputFit, fitted_to_outputs, patches, white
from spectrim.nn.templates import Rebuilding, assigned, chosen
from spectrim.transforms.taps import Family, fitted, fitted_matrices, identity


class Prunable(Protocol):
    """A layer whose filters are pruned while it trains."""

    sizes: ConvSizes
    rebuilding: Rebuilding | None
    price: int

    @property
    def pruned(self) -> set[int]:
        """The filters that are rebuilt from others."""

    def get_buffer(self, target: str) -> Tensor:
        """Of which ``stage`` counts the stages that the layer has seen."""

    def saliency(self, how: Rebuilding) -> Float[Tensor, "out"]:
        """How important each filter is."""

    def prune_(self, pruned: set[int], how: Rebuilding, stage: int) -> None:
        """Rebuild these filters from the others."""


def prune_together_(layers: Iterable[Prunable], progress: float) -> None:
    """Make the stages up to a progress in [0, 1]: prune the least important filters of all layers with the same settings."""
    together: dict[Rebuilding, list[Prunable]] = {}
    for layer in layers:
        if layer.rebuilding is not None:
            together.setdefault(layer.rebuilding, []).append(layer)
    for how, alike in together.items():
        stage = how.stage(progress)
        if stage > max(int(layer.get_buffer("stage")) for layer in alike):
            ranks = [layer.saliency(how) for layer in alike]
            if how.saliency == "taylor" and not any(bool(each.any()) for each in ranks):
                raise ValueError(
                    'saliency="taylor" ranks filters by the gradients of a training step, and there was none before '
                    f"progress {progress:g}. Anneal after the backward pass, or pass saliency='magnitude'."
                )
            wanted = chosen(
                ranks,
                [layer.pruned for layer in alike],
                how.pruned(sum(layer.price * layer.sizes.outside for layer in alike), stage),
                how.least,
                [layer.price for layer in alike],
            )
            for layer, pruned in zip(alike, wanted, strict=True):
                layer.prune_(pruned, how, stage)


@dataclass(frozen=True)
class Filters:
    """The filters of a layer as a stage finds them.

    Attributes:
        sizes: Of the convolution.
        family: Of the transformations.
        groups: Of input channels, each with transformations of its own.
        current: All filters as the layer computes them.
        templates: What is stored for each, in full depth; of rebuilt ones nobody uses it.
        template: For each filter the one that it is rebuilt from; a template's is itself.
        seen: What the layer read in the calls of the last step; nothing where it does not look.
    """

    sizes: ConvSizes
    family: Family
    groups: int
    current: Float[Tensor, "out in *kernel"]
    templates: Float[Tensor, "out in *kernel"]
    template: Int[Tensor, "out"]
    seen: tuple[Tensor, ...] = ()

    def fit(self, some: Sequence[int], kept: list[int], template: list[int] | None = None) -> OutputFit:
        """Some filters from the templates that are kept, by what the layer read last; by their weights where it read nothing."""
        wanted = self.current[some]
        calls = [patches(each, self.sizes)[:: len(self.seen)] for each in self.seen]
        read = torch.cat(calls) if calls else white(self.sizes).to(wanted)
        centred = bool(calls)
        return fitted_to_outputs(read, wanted, self.templates[kept], self.groups, template=template, centred=centred)


class Rebuilt(NamedTuple):
    """The filters of a layer as a stage leaves them.

    Attributes:
        template: For each filter the one that it is rebuilt from; a template's is itself.
        turned: For each filter the row of its transformation, its own; -1 for a template.
        fresh: The filters whose template is a new one: their transformations start anew, those of others go on.
        transformations: Where these start from.
        shift: What their biases must add, if anything.
    """

    template: Int[Tensor, "out"]
    turned: Int[Tensor, "out"]
    fresh: Int[Tensor, "fresh"]
    transformations: Float[Tensor, "group fresh ..."]
    shift: Float[Tensor, "fresh"] | None


@torch.no_grad()
def rebuilt(now: Filters, before: set[int], pruned: set[int], how: Rebuilding, stage: int) -> Rebuilt:
    """Prune some filters, each of which is from now on rebuilt from one that is left.

    Args:
        now: The filters.
        before: Which of them are rebuilt already.
        pruned: Which of them are to be rebuilt, those before among them.
        how: By which settings.
        stage: Which one this is.

    >>> sizes = ConvSizes.of(torch.nn.Conv1d(1, 3, 1))
    >>> weight = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    >>> found = rebuilt(
    ...     Filters(sizes, "scalar", 1, weight, weight, torch.arange(3)), set(), {1, 2}, Rebuilding(keep=0.3), 1
    ... )
    >>> found.template, found.turned, found.transformations.flatten()
    (tensor([0, 0, 0]), tensor([-1,  1,  2]), tensor([2., 3.]))
    """
    kept = [n for n in range(len(now.template)) if n not in pruned]
    template, fit = now.template.clone(), None
    if how.assign == "outputs":
        fresh = sorted(n for n in pruned if n not in before or int(template[n]) in pruned)
        fit = now.fit(fresh, kept)
        template[kept + fresh] = torch.tensor(kept + [kept[m] for m in fit.template]).to(template)
    else:
        generator = torch.Generator().manual_seed(how.seed + stage)
        template = assigned(now.current, pruned, how.assign, generator=generator).to(template)
        fresh = sorted(n for n in pruned if n not in before or template[n] != now.template[n])
    rows = torch.tensor(fresh, dtype=torch.long, device=template.device)
    turned = torch.full_like(template, -1)
    everyone = torch.tensor(sorted(pruned), device=template.device)
    turned[everyone] = everyone.to(turned)
    start, shift = identity(now.family, now.sizes.kernel).to(now.current)[None, None], None
    if how.start == "outputs" and now.family == "scalar":
        fit = fit or now.fit(fresh, kept, [kept.index(int(m)) for m in template[rows]])
        start, shift = fit.factors, fit.shift
    elif how.start != "ones" and now.family in ("scalar", "matrix"):
        closest = fitted if now.family == "scalar" else fitted_matrices
        start = closest(now.current[rows], now.templates[template[rows].long()], now.groups)
    return Rebuilt(template, turned, rows, start, shift)


def agree_(how: Rebuilding, decided: Iterable[Tensor]) -> None:
    """Give all processes what the first one decided, where that is by what it has seen: each sees batches of its own."""
    looked = how.looks or how.saliency == "taylor"
    if looked and torch.distributed.is_available() and torch.distributed.is_initialized():
        for each in decided:
            torch.distributed.broadcast(each.detach(), 0)
