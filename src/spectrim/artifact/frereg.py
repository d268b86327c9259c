"""Reading the checkpoints of the authors' release of Frequency Regularization."""

import bisect
import math
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spectrim.artifact.entries import aliases, slots
from spectrim.errors import ArtifactError
from spectrim.nn.spectral import SpectralCodec
from spectrim.surgery.edits import ParametrizeTensor
from spectrim.surgery.plan import Plan
from spectrim.surgery.sites import Site, Where, coded, dotted, nearest_names, parameters, selected
from spectrim.transforms.dct import Norm
from spectrim.transforms.ordering import cut_key

_WEIGHTED = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip
_BOOKKEEPING = ("ZMAT", "IDROP", "IMAT")
"""Ranks and masks that the official layers store beside each spectrum."""
_FLOOR = 256
"""The official layers keep at least 128 (convolutions) or 256 (linear) coefficients."""


@dataclass(frozen=True)
class _Spectrum:
    site: Site
    code: Tensor
    kept: int


def import_frereg_(
    model: nn.Module, path: str | os.PathLike[str], *, where: Where = None, norm: Norm = "ortho"
) -> nn.Module:
    """Put the spectra of a ``frereg`` checkpoint into a model, so that :func:`spectrim.save` makes an artifact of them.

    A checkpoint is what ``torch.save`` writes of a dict of tensors, with the names of the model. Spectra are, in this
    order of precedence: what ``where`` names; the weights of layers with a ``ZMAT``, ``IDROP`` or ``IMAT`` entry, as whole state
    dicts have it; the weights stored as sparse tensors, as the release has it. In a file where everything is sparse
    a plain layer among the authors' looks like a spectrum that was never cut, which is refused where it has more
    coefficients than their floors keep: say by ``where`` what it is, for instance ``where="!stem"``. A mask
    ``IDROP`` is applied, all else is copied.

    Args:
        model: The architecture in ordinary torch layers, freshly built.
        path: Of the checkpoint, which is read with ``weights_only``: nothing in it is executed.
        where: Which weights are spectra.
        norm: ``backward`` for checkpoints of the authors' training code.

    Returns:
        The model, each spectrum with the smallest kept count that covers its non-zero coefficients.

    Raises:
        ArtifactError: The file cannot be read or does not fit the model, which is then as it was; names the entry.
        SiteError: ``where`` matches nothing.

    References:
        Zhao et al. 2023 (arXiv 2304.07973); ``frereg`` 0.1.0.

    >>> import tempfile
    >>> spectrum = torch.zeros(4, 4)
    >>> spectrum[0, 0] = 8.0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.pt")
    ...     torch.save({"weight": spectrum.to_sparse()}, path)
    ...     layer = import_frereg_(nn.Linear(4, 4, bias=False), path)
    >>> layer.parametrizations.weight[0], layer.weight.mean().item()
    (SpectralCodec(shape=(4, 4), kept=1), 2.0)
    """
    if norm not in ("ortho", "backward"):
        raise ValueError(f"norm must be 'ortho' or 'backward', got {norm!r}.")
    try:
        entries = _entries(path)
        tensors = _fitting(model, entries)
        spectra = [_spectrum(site, entries, tensors[site.name]) for site in _sites(model, entries, where)]
        if where is None:
            _none_uncut(spectra, entries)
    except ArtifactError as error:
        raise ArtifactError(f"{os.fspath(path)}: {error}") from error
    edits = []
    for each in spectra:
        spec: dict[str, Any] = {"shape": list(each.code.shape), "kept": each.kept}
        if norm != "ortho":
            spec["norm"] = norm
        edits.append(ParametrizeTensor(each.site.path, each.site.tensor, SpectralCodec.kind, spec))
    Plan(method="import_frereg_", model=type(model).__name__, edits=tuple(edits)).apply_(model)
    codes = {each.site.name: each.code for each in spectra}
    with torch.no_grad():
        for coding in coded(model):
            coding.code.copy_(codes[coding.site])
        for name, slot in slots(model).items():
            slot.tensor.copy_(tensors[name])
    return model


def _entries(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    try:
        # torch has no annotations for this one; without it, indices outside a tensor would be read as memory
        with torch.sparse.check_sparse_tensor_invariants():  # type: ignore[no-untyped-call]
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ArtifactError(f"asked to read a checkpoint, found: {error.strerror or error}. Check the path.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = str(error).split("\n")[0][:200]
        raise ArtifactError(
            f"asked to read a checkpoint of tensors, found: {reason} Nothing of it was executed."
        ) from error
    if not isinstance(loaded, Mapping) or not loaded:
        raise ArtifactError(
            f"asked to read a dict of tensors, found a {type(loaded).__name__}. Save model.state_dict()."
        )
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ArtifactError(
                f"the entry {str(name)[:80]!r} is a {type(value).__name__}, not a tensor. Save model.state_dict()."
            )
    return dict(loaded)


def _fitting(model: nn.Module, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors by the model's names, all there, of the right shapes, finite, dense.

    Shapes are compared before anything becomes dense: a sparse tensor of a few bytes may claim any size.
    """
    if coded(model):
        raise ArtifactError(f"asked to import into {type(model).__name__}, found it coded already. Build it anew.")
    places = slots(model)
    theirs = {name: tensor for name, tensor in entries.items() if name.rpartition(".")[2] not in _BOOKKEEPING}
    if unknown := [name for name in theirs if name not in places]:
        near = nearest_names(unknown[0], places)
        raise ArtifactError(
            f"the checkpoint holds {unknown[0]!r} ({len(unknown)} such), which {type(model).__name__} does not have."
            + (f" Nearest: {', '.join(map(repr, near))}." if near else "")
            + " Pass the architecture that it was trained in, with ordinary layers."
        )
    if missing := [name for name in places if name not in theirs and name not in aliases(places)]:
        raise ArtifactError(
            f"{type(model).__name__} needs {missing[0]!r} ({len(missing)} such), which the checkpoint does not hold. "
            "Pass the architecture that it was trained in."
        )
    found = {}
    for name, tensor in theirs.items():
        there = places[name].tensor
        if tensor.shape != there.shape or tensor.is_floating_point() != there.is_floating_point():
            raise ArtifactError(
                f"{name!r} is {list(tensor.shape)} of {tensor.dtype} in the checkpoint, "
                f"{list(there.shape)} of {there.dtype} in {type(model).__name__}. Pass the architecture it was trained in."
            )
        found[name] = tensor.to_dense().detach()
        if tensor.is_floating_point() and not bool(torch.isfinite(found[name].to(there.dtype)).all()):
            raise ArtifactError(f"{name!r} holds numbers that are NaN, infinite or too large for {there.dtype}.")
    return found | {alias: found[name] for alias, name in aliases(places).items() if alias not in found}


def _sites(model: nn.Module, entries: Mapping[str, Tensor], where: Where) -> list[Site]:
    """The weights that are spectra."""
    candidates = [site for site in parameters(model) if isinstance(site.module, _WEIGHTED) and site.tensor == "weight"]
    if where is not None:
        chosen = selected(candidates, where, model=model)
    elif any(_marked(site.path, entries) for site in candidates):
        chosen = {site.name for site in candidates if _marked(site.path, entries)}
    else:
        chosen = {site.name for site in candidates if site.name in entries and entries[site.name].is_sparse}
    if not chosen:
        raise ArtifactError(
            "found no spectra: no sparse weight, no ZMAT. If the file holds them as dense tensors, name them by where='*'; "
            "if its weights are ordinary ones, load it with model.load_state_dict."
        )
    return [site for site in candidates if site.name in chosen]


def _marked(path: str, entries: Mapping[str, Tensor]) -> bool:
    """Whether a module is one of the authors' layers by what the checkpoint has beside its weight."""
    return any(dotted(path, name) in entries for name in _BOOKKEEPING)


def _spectrum(site: Site, entries: Mapping[str, Tensor], code: Tensor) -> _Spectrum:
    mask = entries.get(dotted(site.path, "IDROP"))
    if mask is not None:
        if mask.numel() != code.numel():
            raise ArtifactError(
                f"the mask of {site.name!r} has {mask.numel()} numbers for {code.numel()} coefficients."
            )
        code = torch.where(mask.to_dense().reshape(code.shape) != 0, code, 0)
    return _Spectrum(site, code, covering(code))


def _none_uncut(spectra: list[_Spectrum], entries: Mapping[str, Tensor]) -> None:
    """Refuse what may be the weight of a plain layer."""
    for each in spectra:
        if _FLOOR < each.kept == each.code.numel() and not _marked(each.site.path, entries):
            raise ArtifactError(
                f"{each.site.name!r} has no zero behind its {each.kept:,} coefficients: a spectrum that was never cut, or "
                f"the weight of a plain layer? Say where='*' if it is a spectrum, where={'!' + each.site.name!r} if not."
            )


def covering(spectrum: Tensor) -> int:
    """The smallest kept count that covers the non-zero coefficients of a spectrum.

    >>> covering(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    3
    """
    shape, numel = tuple(spectrum.shape), spectrum.numel()
    found = spectrum.nonzero()
    if not len(found):
        return 1
    positions = spectrum.flatten().nonzero()[:, 0]
    last = int((found.sum(dim=1) * numel + positions).max())
    return 1 + bisect.bisect_left(range(1, math.prod(shape) + 1), last, key=lambda kept: cut_key(shape, kept))
