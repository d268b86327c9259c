"""Let torchvision's CUDA wheel load beside a CPU build of torch.

The package index carries one torchvision wheel per release, built for CUDA. Beside a CPU build of torch its extension
``_C.so`` cannot load (it wants CUDA's libraries), so the operators ``nms`` and ``qnms`` are never registered, and
the fake kernels that torchvision registers for them unconditionally stop the import::

    RuntimeError: operator torchvision::nms does not exist

With it fail timm, torchmetrics and everything else that imports torchvision. The cure is to declare the two operators'
schemas just before torchvision is imported. Models, weights and transforms then work; ``nms``, ``deform_conv2d`` and the
native image decoders stay unavailable, and spectrim needs none of them.

Developer set-up only, never part of the package. Two ways to use it:

* ``conftest.py`` calls :func:`install`, so tests run in any environment;
* ``python tools/torchvision_cpu.py`` copies this file into the site-packages of that interpreter, beside a ``.pth`` file
  that calls :func:`install` at start-up, so that benchmarks and the command line work too. The Makefile does it.

Where it is not needed (a CUDA build of torch, a CPU build of torchvision, no torchvision) it does nothing.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_libraries: list[object] = []  # a torch.library.Library unregisters its operators when it is collected


class TorchvisionOnCpu(importlib.abc.MetaPathFinder):
    """Sees the import of torchvision coming, declares the operators, and steps aside."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec(fullname, path)
            if spec is not None and spec.origin is not None and _was_built_for_cuda(Path(spec.origin)):
                _declare_operators()


def install() -> None:
    """Watch for the import of torchvision; calling it twice is harmless."""
    watching = any(type(finder).__name__ == TorchvisionOnCpu.__name__ for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not watching:
        sys.meta_path.insert(0, TorchvisionOnCpu())


def _was_built_for_cuda(init: Path) -> bool:
    return "+cu" in init.with_name("version.py").read_text(encoding="utf-8")


def _declare_operators() -> None:
    import torch

    if torch.version.cuda is not None:
        return
    for name in ("nms", "qnms"):
        try:
            getattr(torch.ops.torchvision, name)
        except AttributeError:
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(  # type: ignore[no-untyped-call]
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
            _libraries.append(library)


def _copy_into_site_packages() -> None:
    import sysconfig

    site_packages = Path(sysconfig.get_path("purelib"))
    module = "_torchvision_cpu"
    (site_packages / f"{module}.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (site_packages / f"{module}.pth").write_text(f"import {module}; {module}.install()\n", encoding="utf-8")


if __name__ == "__main__":
    _copy_into_site_packages()
