"""What every test shares: one thread per process, torchvision that imports on a CPU, reproducible examples."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

_spec = importlib.util.spec_from_file_location(
    "_torchvision_cpu", Path(__file__).parent / "tools" / "torchvision_cpu.py"
)
_torchvision_cpu = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_torchvision_cpu)
_torchvision_cpu.install()

# The kernels in Triton are decorated as their file is imported, so there is nothing to look at without it.
collect_ignore = [] if importlib.util.find_spec("triton") else ["src/spectrim/kernels/banded_triton.py"]

torch.set_num_threads(1)  # tests run in parallel processes; threads of theirs would fight

# Derandomized: a red test stays red for the next person. No deadline: machines are shared, and the first call is slow.
settings.register_profile(
    "spectrim", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("spectrim")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers whichever tests run, in whichever order."""
    torch.manual_seed(0)


@pytest.fixture
def registries() -> Iterator[None]:
    """For tests that define a method or a component: other tests must not find it registered."""
    from spectrim.methods import METHODS
    from spectrim.nn import KINDS

    before = [(registry, dict(registry)) for registry in (METHODS, KINDS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
