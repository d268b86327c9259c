from pathlib import Path

import numpy as np
import pytest

from spectrim.errors import SpectrimError
from spectrim.measure import session_latency

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


def chain(path: Path, products: int, side: int = 256) -> Path:
    """A file that multiplies its input so many times by a constant matrix."""
    weight = onnx.numpy_helper.from_array(np.eye(side, dtype=np.float32), "w")
    nodes = [onnx.helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(products)]
    ends = [onnx.helper.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, [side, side]) for i in (0, products)]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def test_twenty_times_the_work_is_seen_as_slower(tmp_path: Path):
    files = {"long": chain(tmp_path / "long.onnx", 20), "short": chain(tmp_path / "short.onnx", 1)}
    measured = session_latency(files, [np.ones((256, 256), np.float32)], rounds=3, warmup=1)
    assert measured.speedup("short", over="long") > 3
    assert measured["short"].threads == 1
    assert measured["short"].device == "onnxruntime cpu"
    assert measured["short"].repeats >= 1


def test_a_file_that_does_not_load_is_named_with_the_runtimes_reason(tmp_path: Path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not onnx")
    good = chain(tmp_path / "good.onnx", 1)
    with pytest.raises(SpectrimError, match=r"timing 'bad' in onnxruntime failed: .*broken\.onnx"):
        session_latency({"good": good, "bad": broken}, [np.ones((256, 256), np.float32)], rounds=1)


def test_an_input_of_the_wrong_shape_is_reported(tmp_path: Path):
    file = chain(tmp_path / "a.onnx", 1)
    with pytest.raises(SpectrimError, match="'a'"):
        session_latency({"a": file}, [np.ones((2, 2), np.float32)], rounds=1)


def test_a_measurement_without_files_is_refused():
    with pytest.raises(ValueError, match="needs a file"):
        session_latency({}, [])
