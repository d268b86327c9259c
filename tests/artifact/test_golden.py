"""The bytes of format 1, committed: a change of the writer that changes them needs a new format number."""

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt

from spectrim.artifact import load_, read_structure, save
from spectrim.surgery.sites import coded
from tests.artifact.golden import PROVENANCE, architecture, golden, golden_maps, maps

ROOT = Path(__file__).parents[2]
FILES = {"exact": ROOT / "tests/golden/exact.safetensors", "folded": ROOT / "tests/golden/folded.safetensors"}
MAPS = ROOT / "tests/golden/maps.safetensors"
PAGE = ROOT / "docs/format.md"


@pytest.mark.skipif("ng" in zlib.ZLIB_RUNTIME_VERSION, reason="another implementation of deflate packs otherwise")
@pytest.mark.parametrize("norms", FILES)
def test_the_writer_writes_the_committed_bytes(tmp_path, norms):
    save(golden(), tmp_path / "model.safetensors", norms=norms, provenance=PROVENANCE)
    assert (tmp_path / "model.safetensors").read_bytes() == FILES[norms].read_bytes()


@pytest.mark.parametrize("decode", [True, False])
def test_the_reader_reads_the_committed_bytes(decode):
    model, expected = load_(architecture(), FILES["exact"], decode=decode), golden()
    for name in ("conv.weight", "conv.bias", "up.weight", "tail2.weight", "head.weight", "tail.weight", "narrow.core"):
        path, _, tensor = name.rpartition(".")
        found = getattr(model.get_submodule(path), tensor)
        assert torch.equal(found, getattr(expected.get_submodule(path), tensor)), name
    for name in ("norm.running_var", "norm.num_batches_tracked", "large", "brain", "flags"):
        assert torch.equal(model.get_buffer(name), expected.get_buffer(name)), name


@pytest.mark.skipif("ng" in zlib.ZLIB_RUNTIME_VERSION, reason="another implementation of deflate packs otherwise")
def test_whole_numbers_that_are_wide_in_memory_give_the_bytes_that_they_gave_when_they_were_not(tmp_path):
    model = golden_maps()
    assert {buffer.dtype for buffer in model.buffers() if not buffer.is_floating_point()} == {torch.int32}
    save(model, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == MAPS.read_bytes()


@pytest.mark.parametrize("decode", [True, False])
def test_a_file_from_before_they_were_wide_is_read(decode):
    model, expected = load_(maps(), MAPS, decode=decode), golden_maps()
    for name in ("conv.template", "conv.turned", "point.kept", "skip.source"):
        assert torch.equal(model.get_buffer(name), expected.get_buffer(name)), name
        assert model.get_buffer(name).dtype == torch.int32
    x = torch.rand(2, 3, 10, 10)
    assert torch.equal(model(x), expected(x))


def test_a_state_dict_from_before_they_were_wide_fills_them():
    model, expected = golden_maps(), golden_maps()
    state = {
        name: value.short() if value.dtype == torch.int32 else value for name, value in expected.state_dict().items()
    }
    for buffer in model.buffers():
        buffer.zero_()
    model.load_state_dict(state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
        assert value.dtype == expected.state_dict()[name].dtype, name


def test_the_committed_bytes_say_what_they_are():
    structure = read_structure(FILES["folded"])
    assert [(each.path, each.kind) for each in structure.components] == [
        ("narrow", "spectral-factored-linear"),
        ("conv.weight", "spectral"),
        ("up.weight", "spectral"),
        ("tail2.weight", "spectral"),
    ]
    assert structure.norms == "folded"
    assert structure.ties == {"tail.weight": "head.weight"}
    assert structure.provenance == PROVENANCE
    assert {each.dtype for each in structure.tensors} == {"F32", "F16", "BF16", "BOOL"}


def reader():
    """The Python block of the page that reads a file."""
    blocks = [token.content for token in MarkdownIt().parse(PAGE.read_text(encoding="utf-8")) if token.type == "fence"]
    return next(block for block in blocks if "def read(" in block)


def test_the_reader_on_the_page_is_short_and_needs_no_torch():
    assert len(reader().strip().splitlines()) <= 40
    code = (
        reader() + f"\nread({str(FILES['exact'])!r})\nimport sys\nassert not {{'torch', 'spectrim'}} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("norms", FILES)
def test_the_reader_on_the_page_reads_the_committed_bytes(norms):
    namespace = {}
    exec(reader(), namespace)  # noqa: S102  (our own page)
    found, model = namespace["read"](FILES[norms]), golden()
    for each in coded(model):
        expected = each.codec(each.code).detach().numpy()
        np.testing.assert_allclose(found.pop(each.site), expected, atol=1e-6)
    structure = read_structure(FILES[norms])
    loaded = load_(architecture(), FILES[norms])
    for entry in structure.tensors:
        tensor = loaded.state_dict()[entry.name]
        np.testing.assert_array_equal(
            found.pop(entry.name), tensor.float().numpy() if "float" in str(tensor.dtype) else tensor
        )
    assert not found


def test_the_reader_on_the_page_notices_damage(tmp_path):
    namespace = {}
    exec(reader(), namespace)  # noqa: S102  (our own page)
    content = bytearray(FILES["exact"].read_bytes())
    content[-20] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    with pytest.raises(AssertionError):
        namespace["read"](tmp_path / "damaged.safetensors")
