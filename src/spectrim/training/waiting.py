"""What takes long while nothing is to be seen, said before it begins."""

import spectrim
from spectrim.budget import MEASURED, Target
from spectrim.kernels.building import to_compile
from spectrim.methods.method import Method

_COMPILES = "the kernels for this machine are compiled first, once, which takes about a minute"


def planning_waits(method: Method) -> list[str]:
    """Sentences on what the method is about to measure before it has a plan.

    >>> planning_waits(spectrim.PointwisePruning(keep=0.5))
    []
    """
    target = getattr(method, "target", None)
    pointwise = method if isinstance(method, spectrim.PointwisePruning) else None
    layers = pointwise is not None and (pointwise.pays == "time" or (pointwise.learn and pointwise.weigh == "time"))
    if target is not None and Target.parse(target).quantity in MEASURED:
        said = f"planning: cut networks are timed until target {target!r} is met, which can take minutes"
    elif layers:
        said = "planning: every layer is timed in both forms, some seconds each"
    else:
        return []
    return [f"{said}; {_COMPILES}" if pointwise is not None and to_compile() else said]


def measuring_waits(method: Method) -> list[str]:
    """Sentences on what comes before networks of this method are timed, if planning did not have to do it."""
    compiled = isinstance(method, spectrim.PointwisePruning) or (
        isinstance(method, spectrim.ReconstructedFilters) and method.family == "scalar"
    )
    if not compiled or planning_waits(method) or not to_compile():
        return []
    return [f"networks are timed in the end; {_COMPILES}"]
