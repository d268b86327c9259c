"""What a job leaves when it has run from beginning to end."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file

import spectrim
from spectrim.training import result as schema
from spectrim.training.run import run
from spectrim.training.setting import settle
from tests.training.jobs import artifact, job
from tests.training.tiny import Tiny, tiny


def test_a_run_leaves_the_artifact_the_numbers_and_the_page(whole):
    folder, result = whole
    names = {each.name for each in folder.iterdir()}
    assert names == {"model.safetensors", "dense.safetensors", "result.json", "report.html", "checkpoint.safetensors"}
    written, returned = json.loads((folder / "result.json").read_text()), json.loads(json.dumps(result))
    for each in (written, returned):
        for part in ("dense", "compressed"):  # measured anew where another test has resumed this finished run
            del each[part]["latency_ms"], each[part]["macs"]
            each[part].pop("forms", None)
    assert written == returned


def keys_match(value, kind, where="result"):
    """Compare a value with a TypedDict, all the way down."""
    hints = getattr(kind, "__annotations__", None)
    if hints is None:
        return
    assert kind.__required_keys__ <= set(value) <= set(hints), where
    for name in value:
        inner = hints[name]
        rows = value[name] if isinstance(value[name], list) else [value[name]]
        inner = inner.__args__[0] if isinstance(value[name], list) else inner
        for row in rows:
            keys_match(row, inner, f"{where}.{name}")


def test_the_numbers_are_as_the_schema_says(whole):
    keys_match(whole[1], schema.Result)


def test_the_numbers_agree_with_the_file(whole):
    folder, result = whole
    counts = result["compressed"]["bytes"]
    assert counts["total"] == len(artifact(folder)) == counts["payload"] + counts["plain"] + counts["header"]
    assert [(each["site"], each["kept"]) for each in result["layers"]] == [("conv.weight", 11), ("fc.weight", 192)]
    assert result["compressed"]["coded_numbers"] == 203
    assert result["dense"]["parameters"] == sum(p.numel() for p in tiny().parameters())
    assert 0.5 < result["dense"]["metric"] <= 1


def test_the_compressed_metric_is_that_of_the_file(whole):
    folder, result = whole
    setting = settle(job())
    model = spectrim.load_(tiny(), folder / "model.safetensors").eval()
    images, labels = setting.source.test.batch(torch.arange(len(setting.source.test)))
    with torch.no_grad():
        right = (model(setting.prepare(images)).argmax(1) == labels).float().mean()
    assert float(right) == pytest.approx(result["compressed"]["metric"], abs=1e-6)


def test_the_history_shows_the_count_falling_and_the_rate_being_cosine(whole):
    kept = whole[1]["history"]["kept"]
    assert kept["counts"]["fc.weight"][0] == 960
    assert kept["counts"]["fc.weight"] == sorted(kept["counts"]["fc.weight"], reverse=True)
    assert kept["counts"]["fc.weight"][-1] == 192
    assert len(kept["steps"]) == len(kept["counts"]["conv.weight"])
    # the target is reached at 65 % of the steps, the rest is fine-tuning
    reached = kept["steps"][kept["counts"]["fc.weight"].index(192)]
    assert reached / kept["steps"][-1] == pytest.approx(0.65, abs=0.06)


def test_the_page_names_the_network(whole):
    assert "Tiny" in (whole[0] / "report.html").read_text()


def test_evaluation_left_the_baseline_alone(whole):
    dense = load_file(whole[0] / "dense.safetensors")
    assert set(dense) == set(tiny().state_dict())


def test_the_same_job_gives_the_same_bytes_and_another_seed_others(whole, tmp_path):
    run(settle(job()), tmp_path / "same")
    assert artifact(tmp_path / "same") == artifact(whole[0])
    run(settle(job(seed=4)), tmp_path / "other")
    assert artifact(tmp_path / "other") != artifact(whole[0])


def test_pretrained_weights_take_the_place_of_dense_training(whole, tmp_path):
    folder, result = whole
    options = {"weights": folder / "dense.safetensors", "dense_epochs": None, "epochs": 1}
    again = run(settle(job(**options)), tmp_path)
    assert again["dense"]["metric"] == result["dense"]["metric"]
    assert again["history"]["dense"]["steps"] == []


def test_bfloat16_trains_and_is_written(tmp_path):
    options = {"precision": "bf16", "dtype": "bfloat16", "dense_epochs": 1, "epochs": 1}
    result = run(settle(job(**options)), tmp_path)
    assert result["precision"] == "bf16"
    assert result["compressed"]["bytes"]["payload"] == 2 * 203


def test_bfloat16_that_is_only_imitated_is_warned_of(monkeypatch):
    monkeypatch.setattr("spectrim.training.setting.fast_bfloat16", lambda _: False)
    with pytest.warns(UserWarning, match="only imitates it, several times slower than float32. Leave it out here"):
        settle(job(precision="bf16"))
    monkeypatch.setattr("spectrim.training.setting.fast_bfloat16", lambda _: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle(job(precision="bf16"))


def test_where_leaves_layers_alone(tmp_path):
    result = run(settle(job(where=("fc*",), dense_epochs=0, epochs=1)), tmp_path)
    assert [each["site"] for each in result["layers"]] == ["fc.weight"]
    assert any(row["site"] == "conv.weight" for row in result["plans"][0]["skipped"])


def test_classes_of_pixels_are_learnt_too(tmp_path):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(tmp_path / "p.npz", images=images, labels=(images > 127).astype(np.int64))
    options = {
        "model": "tests.training.tiny:pixels", "data": f"npz:{tmp_path}/p.npz", "image_size": None, "dense_epochs": 30,
        "batch_size": 8, "dense_lr": 0.03, "epochs": 1,
    }  # fmt: skip
    result = run(settle(job(**options)), tmp_path / "out")
    assert result["metric"] == {"name": "dice"}
    assert result["dense"]["metric"] > 0.95


def test_the_tiny_network_is_what_the_tests_think():
    assert isinstance(tiny(), Tiny)
