"""What a measurement was made with: the machine and the libraries, without names of hosts, users or folders."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

_LIBRARIES = (
    "spectrim", "torch", "numpy", "scipy", "safetensors", "accelerate", "torch-pruning", "torchvision", "timm",
    "onnxruntime",
)  # fmt: skip


def hardware() -> dict[str, str | int | None]:
    """The processor, how much of it this process may use, and the accelerator if there is one.

    >>> sorted(hardware())
    ['accelerator', 'cores', 'cpu', 'machine', 'system', 'threads']
    """
    return {
        "cpu": _cpu(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "system": platform.system(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else _other_accelerator(),
    }


def versions() -> dict[str, str]:
    """Python and the installed libraries that results depend on; those that are not installed are left out.

    >>> versions()["torch"] == torch.__version__
    True
    """
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 by itself.

    Where an x86 processor can not, torch imitates it, and a training step takes several times as long.

    >>> isinstance(fast_bfloat16(torch.device("cpu")), bool)
    True
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001  # none is public


def _cores() -> int:
    """Cores that this process may run on; fewer than the machine has, in a container."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _other_accelerator() -> str | None:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device.type if device is not None else None
