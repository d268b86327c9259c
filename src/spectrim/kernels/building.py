"""Compiling and loading the kernels for this machine: all of them together, when asked and where layers are about to be measured."""

import hashlib
import importlib
import os
import platform
import shutil
import sys
import warnings
from pathlib import Path

import torch
from filelock import FileLock

from spectrim.errors import first_line

_SOURCES = ("banded.cpp", "banded_kernel.cpp", "blocks.cpp", "fused.cpp", "fused_kernel.cpp", "two_stage.cpp")
_OP = "banded_pointwise"  # one of those that come together
_TRITON = "spectrim.kernels.banded_triton"
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-std=c++20")


def build(*, verbose: bool = False) -> bool:
    """Compile and load the kernels for this machine; about a minute the first time, then from torch's cache of extensions.

    Needs a C++ compiler and ninja.

    Args:
        verbose: Whether the compiler's output is shown.

    Returns:
        Whether they are there now. If not, everything runs as before, in plain torch, and a warning says why.
    """
    if not built():
        from torch.utils import cpp_extension

        sources, ready = _sources(), _ready()
        folder, name = ready.parent, ready.parent.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "spectrim.lock"):  # goes with the process that holds it
                if not ready.exists():
                    (folder / "lock").unlink(missing_ok=True)  # torch's own stays for ever if a build is killed
                    cpp_extension.load(
                        name,
                        [str(source) for source in sources],
                        extra_cflags=[*_FLAGS],
                        build_directory=str(folder),
                        is_python_module=False,
                        verbose=verbose,
                    )
                    made = folder / f"{name}{cpp_extension.LIB_EXT}"
                    half = Path(shutil.copy(made, folder / "half.so"))
                    half.replace(ready)
            if not built():
                torch.ops.load_library(ready)  # type: ignore[no-untyped-call]
        except (RuntimeError, OSError, ImportError) as error:
            reason = first_line(error)
            warnings.warn(f"the kernels were not built, plain torch goes on: {reason}", stacklevel=2)
    return built()


def to_compile() -> bool:
    """Whether :func:`build` would have to compile, and finds a compiler to try it with."""
    return could_build() and not compiled()


def compiled() -> bool:
    """Whether they have been compiled for this machine, now or earlier, so that :func:`build` only loads them."""
    return _ready().exists()


def could_build() -> bool:
    """Whether the kernels are not loaded and :func:`build` finds them compiled, or a compiler to try it with."""
    return not built() and (compiled() or shutil.which(os.environ.get("CXX", "c++")) is not None)


def built() -> bool:
    """Whether the compiled kernels are loaded in this process."""
    return hasattr(torch.ops.spectrim, _OP)


def load_triton() -> bool:
    """Let finalized banded convolutions run in Triton where they are on a CUDA device, from here on and in this process.

    They compute what plain torch does, also inside a CUDA graph; but no network that was timed with them on an NVIDIA H100 was faster than dense.
    So nothing uses them that does not ask.

    Returns:
        Whether they are there now. If not, everything runs as before, in plain torch, and a warning says why.
    """
    try:
        importlib.import_module(_TRITON)
    except ModuleNotFoundError as error:
        warnings.warn(
            f"asked for the kernels in Triton, found no module {error.name!r}; plain torch goes on. Run: pip install triton",
            stacklevel=2,
        )
    return triton_loaded()


def triton_loaded() -> bool:
    """Whether the kernels in Triton were asked for in this process, and are there."""
    return _TRITON in sys.modules


def _sources() -> list[Path]:
    return [Path(__file__).with_name(name) for name in _SOURCES]


def _ready() -> Path:
    """The kernels as they are loaded, where they have been compiled."""
    from torch.utils import cpp_extension

    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    return Path(root) / _name(_sources()) / "ready.so"


def _name(sources: list[Path]) -> str:
    """Of the extension: another one for other sources and other processors, so that copies of the library and machines with one home do not meet."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    digest = hashlib.sha256(f"{platform.machine()} {flags} {torch.__version__} {_FLAGS}".encode())
    for source in [*sources, *sorted(Path(__file__).parent.glob("*.h"))]:
        digest.update(source.read_bytes())
    return f"spectrim_kernels_{digest.hexdigest()[:12]}"
