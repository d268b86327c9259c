"""Damaged files and files made to mislead are refused by name, and the model stays as it is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectrim.artifact import load_, read
from spectrim.artifact.reader import parse
from spectrim.errors import ArtifactError
from tests.artifact.hostile import CASES, FILE, HEADER, model
from tests.artifact.models import fingerprint


def load(content, folder, target=None):
    path = folder / "file.safetensors"
    path.write_bytes(content)
    return load_(model() if target is None else target, path)


def test_the_file_that_the_others_are_made_from_loads(tmp_path):
    loaded = load(FILE, tmp_path)
    assert loaded[0].bias.tolist() == [5, 6, 7, 8]
    assert loaded[1].num_batches_tracked.item() == 3
    assert loaded.get_buffer("2").tolist() == [True, False]


@pytest.mark.parametrize("what", CASES)
def test_a_hostile_file_is_refused_by_name_and_at_once(tmp_path, what):
    content, message = CASES[what]
    target = model()
    before, started = fingerprint(target), time.perf_counter()
    with pytest.raises(ArtifactError, match=message) as raised:
        load(content, tmp_path, target)
    assert str(raised.value).startswith(str(tmp_path / "file.safetensors"))
    assert len(str(raised.value)) < 1000
    assert before == fingerprint(target)
    assert time.perf_counter() - started < 60, "nothing of a claimed size may be built"


@pytest.mark.parametrize("length", [*range(24), *range(HEADER - 9, len(FILE))])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, length):
    with pytest.raises(ArtifactError):
        load(FILE[:length], tmp_path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="found a folder or a device"):
        load_(model(), tmp_path)
    with pytest.raises(ArtifactError, match="No such file or directory"):
        load_(model(), tmp_path / "absent.safetensors")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(ArtifactError, match="found a folder or a device"):
        read(tmp_path / "pipe")


def content_of(artifact):
    tensors = {name: (tensor.dtype, tensor.tolist()) for name, tensor in artifact.tensors.items()}
    return artifact.structure, [[part.tolist() for part in parts] for parts in artifact.codes], tensors


EXPECTED = content_of(parse(bytearray(FILE)))
changes = st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(1, 255)), min_size=1, max_size=3)


@given(changes=changes)
def test_changed_bytes_never_give_another_model(changes):
    content = bytearray(FILE)
    for position, difference in changes:
        content[position] ^= difference
    try:
        artifact = parse(content)
    except ArtifactError:
        return
    assert content_of(artifact) == EXPECTED  # white space of the header


def test_no_single_bit_gives_another_model():
    for position in range(len(FILE)):
        for bit in range(8):
            content = bytearray(FILE)
            content[position] ^= 1 << bit
            try:
                artifact = parse(content)
            except ArtifactError:
                continue
            assert content_of(artifact) == EXPECTED


@given(content=st.binary(max_size=200))
def test_noise_is_refused(content):
    with pytest.raises(ArtifactError):
        parse(bytearray(content))


@given(start=st.integers(0, len(FILE)), inserted=st.binary(min_size=1, max_size=20))
def test_inserted_bytes_never_give_another_model(start, inserted):
    try:
        artifact = parse(bytearray(FILE[:start] + inserted + FILE[start:]))
    except ArtifactError:
        return
    assert content_of(artifact) == EXPECTED


def test_reading_executes_nothing(tmp_path):
    """Python's own audit sees no code compiled, run or unpickled and no program started while files are read."""
    files = [FILE, *(content for content, _ in [*CASES.values()][::8])]
    for number, content in enumerate(files):
        (tmp_path / f"{number:03}.safetensors").write_bytes(content)
    code = f"""
import pathlib, sys
from spectrim.artifact import load_
from spectrim.errors import ArtifactError
from tests.artifact.hostile import model

def load_all():
    refused = 0
    for path in sorted(pathlib.Path({str(tmp_path)!r}).iterdir()):
        try:
            load_(model(), path)
        except ArtifactError:
            refused += 1
    return refused

load_all()  # whatever Python imports late is imported now
forbidden = {{"exec", "compile", "marshal.loads", "pickle.find_class", "os.system", "subprocess.Popen", "ctypes.dlopen"}}
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event in forbidden else None)
assert load_all() == {len(files) - 1}
assert not seen, seen
eval("1")
assert seen, "the audit hears nothing"
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
