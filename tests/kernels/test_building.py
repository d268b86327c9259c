"""Kernels are built when asked for; where they cannot be, everything runs as before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from spectrim.kernels import banded, build, building
from spectrim.nn import GroupedBandsConv2d
from spectrim.nn.blockwise import Geometry


def test_without_a_compiler_plain_torch_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))

    def fails(*_, **__):
        raise RuntimeError("no compiler here\nmore")

    for module in (banded, building):
        monkeypatch.setattr(module, "built", lambda: False)
    monkeypatch.setattr(cpp_extension, "load", fails)
    with pytest.warns(UserWarning, match="the kernels were not built, plain torch goes on: no compiler here"):
        assert not build()
    kept = torch.tensor([1, 4, 9, 9])
    layer = GroupedBandsConv2d.of(Geometry(4, 2, (3, 3), bias=False), torch.ones(2, 4, 1, 1), None, kept)
    assert layer(torch.randn(1, 4, 6, 6)).shape == (1, 2, 6, 6)


BUILDS = """
import sys, time
from pathlib import Path
from torch.utils import cpp_extension
from spectrim.kernels import building

building.built = lambda: False
def load(name, sources, *, build_directory, **_):
    (Path(build_directory) / "lock").touch(exist_ok=False)  # as torch does
    print("building", flush=True)
    time.sleep(float(sys.argv[1]))
    (Path(build_directory) / f"{name}{cpp_extension.LIB_EXT}").write_text("compiled")
    (Path(build_directory) / "lock").unlink()
cpp_extension.load = load
building.torch.ops.load_library = lambda path: print("loading", Path(path).read_text())
building.build()
"""


def test_a_build_that_was_killed_stops_nobody(tmp_path):
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path)}

    def start(seconds):
        command = [sys.executable, "-c", BUILDS, str(seconds)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    with start(60) as victim:
        assert victim.stdout.readline() == "building\n"
        victim.kill()
    with start(0) as second:
        assert second.communicate(timeout=60)[0].splitlines() == ["building", "loading compiled"]
    with start(0) as third:
        assert third.communicate(timeout=60)[0].splitlines() == ["loading compiled"]


def test_other_sources_are_another_extension(tmp_path):
    first, second = tmp_path / "a.cpp", tmp_path / "b.cpp"
    first.write_text("int a;")
    second.write_text("int b;")
    assert building._name([first]) != building._name([second])
    assert building._name([first]) == building._name([first])


def test_every_source_beside_the_module_is_built():
    folder = Path(building.__file__).parent
    assert {path.name for path in folder.glob("*.cpp")} == set(building._SOURCES)


def test_whether_there_is_something_to_compile_is_known_beforehand(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(building, "built", lambda: False)
    monkeypatch.setattr(building.shutil, "which", lambda _: "/usr/bin/c++")
    assert building.to_compile()
    assert not building.compiled()
    building._ready().parent.mkdir(parents=True)
    building._ready().touch()
    assert building.compiled()
    assert not building.to_compile()
    building._ready().unlink()
    monkeypatch.setattr(building.shutil, "which", lambda _: None)
    assert not building.to_compile(), "without a compiler nothing takes long"
