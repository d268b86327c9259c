"""Which filters became transformations of which: rows for every layer, and some of them to look at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spectrim.errors import ArtifactError
from spectrim.nn.component import components
from spectrim.nn.reconstructed import TemplateConv, sizes_of
from spectrim.nn.template_costs import stored, stored_by_equation
from spectrim.report.charts import Chart, drawn
from spectrim.report.reading import at, mappings, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """The filters of one layer.

    Attributes:
        site: Dotted name of the layer.
        family: Of its transformations.
        groups: Groups of input channels.
        filters: How many there are.
        made: For each rebuilt filter the one that it is made from, by number of the output.
        shape: Of the weight that the convolution had, if known.
        stored: Weights that a file holds of the layer, if known.
        by_equation: The paper's count of the same, its equation 3.9.
    """

    site: str
    family: str
    groups: int
    filters: int
    made: Mapping[int, int]
    shape: tuple[int, ...] = ()
    stored: int = 0
    by_equation: int = 0

    @classmethod
    def of(
        cls, site: str, spec: Mapping[str, Any], template: Sequence[int], turned: Sequence[int], *, live: bool
    ) -> "Rebuilt":
        """From what a layer, or a file, says.

        Args:
            site: Dotted name of the layer.
            spec: Of the component.
            template: For each output the row of its template.
            turned: For each output that of its transformation; below 0 for a template.
            live: While filters are still being rebuilt rows are outputs; in a file rows count the templates alone.

        Raises:
            ValueError: They are not those of a layer.
        """
        own = [output for output, row in enumerate(turned) if row < 0]
        if len(template) != len(turned):
            raise ValueError(f"{len(template)} templates, {len(turned)} transformations")
        place = {(output if live else template[output]): output for output in own}
        strange = {row for row in template if row not in place}
        if strange:
            raise ValueError(f"no output is the template in row {min(strange)}")
        made = {output: place[template[output]] for output, row in enumerate(turned) if row >= 0}
        family, groups = spec["family"], int(spec["groups"])
        if groups < 1:
            raise ValueError(f"{groups} groups")
        sizes, how = sizes_of(spec), {"groups": groups, "family": family}
        return cls(
            site=site,
            family=str(family),
            groups=groups,
            filters=len(template),
            made=made,
            shape=(sizes.outside, sizes.inside, *sizes.kernel),
            stored=stored(sizes, len(own), share_groups=bool(spec.get("share_groups")), **how),
            by_equation=stored_by_equation(sizes, len(own), **how),
        )

    def __str__(self) -> str:
        """One line: which filters of which.

        >>> print(Rebuilt(site="conv", family="scalar", groups=2, filters=5, made={1: 0, 4: 0, 3: 2}))
        conv  3 of 5 rebuilt: 1 4 of 0, 3 of 2
        """
        return f"{self.site}  {len(self.made)} of {self.filters} rebuilt{': ' if self.made else ''}{self.listed()}"

    def listed(self) -> str:
        """The rebuilt filters, template by template."""
        of: dict[int, list[int]] = {}
        for output, template in self.made.items():
            of.setdefault(template, []).append(output)
        return ", ".join(f"{' '.join(map(str, outputs))} of {template}" for template, outputs in sorted(of.items()))

    def to_json(self) -> dict[str, Any]:
        """The attributes; outputs are texts, as JSON's names are."""
        made = {str(output): template for output, template in self.made.items()}
        return {**vars(self), "made": made}


def rebuilt_layers(model: nn.Module) -> tuple[Rebuilt, ...]:
    """Those of a live model, or of one that was loaded with its codes."""
    return tuple(
        Rebuilt.of(path, each.spec(), each.template.tolist(), each.turned.tolist(), live=each.rebuilding is not None)
        for path, each in _layers(model)
    )


def rebuilt_parts(specs: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> tuple[Rebuilt, ...]:
    """Those of a file.

    Args:
        specs: Of its template convolutions, by dotted name.
        tensors: Of the file, by dotted name.

    Raises:
        ArtifactError: They do not fit each other; names the layer.
    """
    found = []
    for path, spec in specs.items():
        prefix = f"{path}." if path else ""
        try:
            rows = [tensors[f"{prefix}{name}"].tolist() for name in ("template", "turned")]
            found.append(Rebuilt.of(path, spec, *rows, live=spec.get("rebuilding") is not None))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"the layer {path!r}: what its filters are rebuilt from cannot be read ({error}). The file is damaged; get it again."
            ) from error
    return tuple(found)


def samples(model: nn.Module, *, count: int = _SHOWN) -> list[dict[str, Any]]:
    """Some rebuilt filters of the layer with the most, as numbers to draw: one of each template first.

    A filter is shown where it reads the input channel on which its template weighs most. The transformation of a
    scalar family is shown as its factors, any other as the matrix of its taps.
    """
    layers = [(path, each) for path, each in _layers(model) if each.pruned and each.sizes.dims == 2]
    if not layers:
        return []
    path, layer = max(layers, key=lambda pair: len(pair[1].pruned))
    (row,) = (each for each in rebuilt_layers(model) if each.site == path)
    firsts = {template: output for output, template in reversed(list(row.made.items()))}.values()
    order = [*sorted(firsts), *(output for output in row.made if output not in set(firsts))]
    filters, maps = layer.filters().detach().double().cpu(), layer.maps().detach().double().cpu()
    found = []
    for output in order[:count]:
        template = filters[row.made[output]]
        channel = int(template.square().flatten(1).sum(1).argmax())
        group = channel // (layer.sizes.inside // layer.groups)
        change = maps[group, output]
        change = change.reshape(layer.sizes.kernel) if layer.family == "scalar" else change
        found.append(
            {
                "site": path,
                "output": output,
                "of": row.made[output],
                "channel": channel,
                "family": layer.family,
                "template": _rounded(template[channel]),
                "transformation": _rounded(change),
                "rebuilt": _rounded(filters[output, channel]),
            }
        )
    return found


def chart(result: Mapping[str, Any]) -> Chart | None:
    """The picture of a run's samples: templates, transformations and rebuilt filters in three rows."""
    found = mappings(result, "rebuilt", "samples")
    if not found:
        return None
    with drawn(width=0.95 * len(found) + 1.2, height=3.3) as (figure, drawing):
        _draw(figure, found)
    site = text(found[0], "site")
    return Chart(
        title=f"Filters of {site}",
        summary=f"{len(found)} rebuilt filters of {site}: above the templates, amid the transformations, below the filters made of both.",
        svg=drawing.svg,
    )


def _draw(figure: "Figure", found: Sequence[Mapping[str, Any]]) -> None:
    rows = ("template", "transformation", "rebuilt")
    grid = figure.subplots(len(rows), len(found), squeeze=False)
    for name, line in zip(rows, grid, strict=True):
        for sample, axes in zip(found, line, strict=True):
            values = at(sample, name)
            most = max((abs(value) for numbers in values for value in numbers), default=0.0) or 1.0
            axes.imshow(values, cmap="RdBu_r" if name != "transformation" else "PuOr_r", vmin=-most, vmax=most)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if name == "template":
                axes.set_title(f"{at(sample, 'of')}, input {at(sample, 'channel')}", fontsize=7.5)
            elif name == "rebuilt":
                axes.set_xlabel(f"filter {at(sample, 'output')}", fontsize=7.5)
            else:
                axes.set_xlabel(f"±{most:.2g}", fontsize=7)
        line[0].set_ylabel(name, fontsize=8.5)


def _layers(model: nn.Module) -> Iterator[tuple[str, TemplateConv]]:
    for path, each in components(model):
        if isinstance(each, TemplateConv):
            yield path, each


def _rounded(values: Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in values.tolist()]
