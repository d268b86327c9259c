"""Make trained vision networks smaller and faster in the frequency domain.

Names are imported when they are first used, so that the command line answers ``--help`` before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectrim.artifact import load_, save
    from spectrim.errors import (
        ArtifactError,
        DataError,
        OrderError,
        PlanError,
        SiteError,
        SpectrimError,
        UnsupportedError,
    )
    from spectrim.methods import CFDP, FrequencyRegularization, PointwisePruning, ReconstructedFilters
    from spectrim.repair import reestimate_norms_, repair_
    from spectrim.surgery import Plan
    from spectrim.verbs import (
        anneal_,
        compress_,
        finalize_,
        inspect,
        inspect_channels,
        inspect_frequencies,
        penalty,
        plan,
    )

_HOMES = {
    "spectrim.artifact": ("load_", "save"),
    "spectrim.errors": (
        "ArtifactError",
        "DataError",
        "OrderError",
        "PlanError",
        "SiteError",
        "SpectrimError",
        "UnsupportedError",
    ),
    "spectrim.methods": ("CFDP", "FrequencyRegularization", "PointwisePruning", "ReconstructedFilters"),
    "spectrim.repair": ("reestimate_norms_", "repair_"),
    "spectrim.surgery": ("Plan",),
    "spectrim.verbs": (
        "anneal_",
        "compress_",
        "finalize_",
        "inspect",
        "inspect_channels",
        "inspect_frequencies",
        "penalty",
        "plan",
    ),
}

__all__ = [  # noqa: RUF022 - sorted as people sort
    "ArtifactError",
    "CFDP",
    "DataError",
    "FrequencyRegularization",
    "OrderError",
    "Plan",
    "PlanError",
    "PointwisePruning",
    "ReconstructedFilters",
    "SiteError",
    "SpectrimError",
    "UnsupportedError",
    "anneal_",
    "compress_",
    "finalize_",
    "inspect",
    "inspect_channels",
    "inspect_frequencies",
    "load_",
    "penalty",
    "plan",
    "reestimate_norms_",
    "repair_",
    "save",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'spectrim' has no attribute {name!r}; its names are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return list(__all__)
