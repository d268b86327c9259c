"""A job, from beginning to end, and what becomes of it when it is stopped."""

import errno
import json
import os
import signal
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import spectrim
from spectrim.errors import ArtifactError, SpectrimError
from spectrim.training import result as schema
from spectrim.training.checkpoint import Checkpoint
from spectrim.training.job import Job
from spectrim.training.progress import Silent
from spectrim.training.recipes import CARDS
from spectrim.training.run import run
from spectrim.training.setting import settle
from spectrim.training.watched import StoppedError
from tests.training.tiny import Tiny, tiny

EPOCHS = 2


def job(**changes):
    options = {
        "model": "tests.training.tiny:tiny", "data": "digits", "image_size": 8, "method": "frequency-regularization",
        "settings": {"keep": 0.2}, "dense_epochs": EPOCHS, "epochs": EPOCHS, "batch_size": 128, "seed": 3,
    }  # fmt: skip
    return Job(**{**options, **changes})


def artifact(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One uninterrupted run, and its result."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(settle(job()), folder)


# -- what comes out ---------------------------------------------------------------------------------------------------


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


# -- cut, with other weights afterwards ------------------------------------------------------------------------------


def cut(**changes):
    return job(
        **{"method": "cfdp", "settings": {"keep": 0.5, "round_to": 1}, "recipe": "short", "epochs": 1, **changes}
    )


def written(folder):
    return spectrim.load_(tiny(), Path(folder) / "model.safetensors").state_dict()


def test_an_untrained_network_is_cut_and_trained_from_fresh_weights(tmp_path):
    asked = {"dense_epochs": None, "untrained": True, "dtype": "float32", "epochs": 0, "recipe": None}
    setting = settle(cut(**asked))
    assert [phase.steps for phase in setting.phases()] == [0, 0]
    result = run(setting, tmp_path)
    assert result["start"] == "all"
    assert result["dense"]["metric"] < 0.5
    dense, small, fresh = load_file(tmp_path / "dense.safetensors"), written(tmp_path), setting.fresh().state_dict()
    (edit,) = result["plans"][0]["edits"]
    stays = [channel for channel in range(6) if channel not in edit["channels"]]
    assert torch.equal(dense["conv.weight"], setting.network().state_dict()["conv.weight"])
    assert torch.equal(small["conv.weight"], fresh["conv.weight"][stays])
    assert not torch.equal(small["conv.weight"], dense["conv.weight"][stays])


def test_an_untrained_network_trains_like_a_dense_one():
    asked = job(method="cfdp", settings={}, dense_epochs=None, epochs=None, untrained=True, batch_size=None).recipes()
    assert asked.compressed == replace(asked.dense, epochs=asked.compressed.epochs)
    assert (asked.dense.epochs, asked.compressed.epochs) == (0, 30)
    assert cut(untrained=True, dense_epochs=None, epochs=None).recipes().compressed.lr == CARDS["short"].lr


def test_the_start_of_the_releases_keeps_the_weights_of_convolutions_alone(tmp_path):
    setting = settle(cut(epochs=0, dense_epochs=1, reinit="hrankplus", dtype="float32"))
    result = run(setting, tmp_path)
    dense, small, fresh = load_file(tmp_path / "dense.safetensors"), written(tmp_path), setting.fresh().state_dict()
    (edit,) = result["plans"][0]["edits"]
    stays = [channel for channel in range(6) if channel not in edit["channels"]]
    assert torch.equal(small["conv.weight"], dense["conv.weight"][stays])
    assert small["norm.running_mean"].tolist() == [0] * 3
    assert small["norm.weight"].tolist() == [1] * 3
    assert torch.equal(small["conv.bias"], fresh["conv.bias"][stays])
    assert torch.equal(small["fc.bias"], fresh["fc.bias"])
    assert result["dense"]["metric"] > result["compressed"]["metric"]


# -- cut, and repaired ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repaired(tmp_path_factory):
    """A cut that was repaired, and trained for an epoch; not interrupted."""
    folder = tmp_path_factory.mktemp("repaired")
    return folder, run(settle(cut(dense_epochs=3, dtype="float32")), folder)


def test_a_cut_is_repaired_before_it_trains(repaired, tmp_path):
    (report,) = repaired[1]["history"]["repairs"]
    assert [row["path"] for row in report["refitted"]] == ["fc"]
    assert report["images"] == [560, 80]
    assert report["after"] < report["before"]
    found = {}
    for repair in (False, True):
        options = {"weights": repaired[0] / "dense.safetensors", "dense_epochs": None, "epochs": 0, "repair": repair}
        found[repair] = run(settle(cut(**options)), tmp_path / str(repair))
    assert found[False]["history"]["repairs"] == []
    assert found[True]["compressed"]["metric"] > found[False]["compressed"]["metric"]
    assert found[True]["compressed"]["bytes"] == found[False]["compressed"]["bytes"]


@pytest.mark.parametrize("checkpoints", [4, 5, 6])  # 11 steps an epoch: last of dense, start of compressed, later
def test_a_killed_run_with_a_repair_goes_on_to_the_same_bytes(repaired, tmp_path, killed_after, checkpoints):
    asked = cut(dense_epochs=3, dtype="float32")
    killed_after(checkpoints)
    with pytest.raises(Killed):
        run(settle(asked), tmp_path, checkpoint_every=9)
    killed_after(0)
    torch.manual_seed(99)
    again = run(settle(asked), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(repaired[0])
    assert again["history"]["repairs"] == repaired[1]["history"]["repairs"]


def test_a_repair_is_the_default_where_a_cut_leaves_weights():
    assert cut().repairs
    assert not cut(repair=False).repairs
    assert not cut(reinit="all").repairs
    assert not job().repairs
    assert job(method="pointwise-pruning", settings={}).repairs
    assert not job(method="pointwise-pruning", settings={"learn": True}).repairs


def test_the_calibration_is_spread_over_the_training_images():
    setting = settle(cut())
    batches = list(setting.calibration)
    train = setting.source.train
    assert [len(batch) for batch in batches] == [64] * 10
    last = setting.prepare(train.batch(torch.tensor([639 * len(train) // 640]))[0])
    assert torch.equal(batches[-1][-1:], last)


# -- cut in rounds ----------------------------------------------------------------------------------------------------


ROUNDS = {"rounds": 3, "epochs": 4, "dense_epochs": 1, "ema": 0.9, "precision": "bf16"}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """A run in three rounds, not interrupted."""
    folder = tmp_path_factory.mktemp("rounds")
    return folder, run(settle(cut(**ROUNDS)), folder)


def test_rounds_share_the_epochs_and_end_at_the_widths_of_one_cut(rounds, tmp_path):
    folder, result = rounds
    left = [[edit["width"] - len(edit["channels"]) for edit in plan["edits"]] for plan in result["plans"]]
    assert left == [[4], [3], []]  # of 6 channels 4.8, 3.8 and 3 are meant
    assert [phase.recipe.epochs for phase in settle(cut(**ROUNDS)).phases()] == [1, 1, 1, 2]
    assert result["rounds"] == 3
    once = run(settle(cut(dense_epochs=1)), tmp_path)
    assert once["compressed"]["numbers"] == result["compressed"]["numbers"]
    assert once["compressed"]["bytes"] == result["compressed"]["bytes"]
    assert "The plan, round 3 of 3" in (folder / "report.html").read_text()
    assert "The plan, round" not in (tmp_path / "report.html").read_text()


def test_the_history_of_rounds_is_one_line(rounds):
    history = rounds[1]["history"]
    assert history["compressed"]["steps"] == list(range(1, 45))
    assert [look["step"] for look in history["evaluations"]] == [11, 11, 22, 33, 44]
    assert set(history["seconds"]) == {"dense", "round 1 of 3", "round 2 of 3", "round 3 of 3"}
    lr = history["compressed"]["lr"]
    assert all(lr[start] > 10 * lr[start - 1] for start in (11, 22))  # each round runs through the whole curve


@pytest.mark.parametrize("checkpoints", [4, 6, 7, 8, 9, 12])  # the end of the dense network, then all over the rounds
def test_a_run_killed_in_any_round_goes_on_to_the_same_bytes(rounds, tmp_path, killed_after, checkpoints):
    killed_after(checkpoints)
    with pytest.raises(Killed):
        run(settle(cut(**ROUNDS)), tmp_path, checkpoint_every=4)
    killed_after(0)
    torch.manual_seed(99)
    result = run(settle(cut(**ROUNDS)), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(rounds[0])
    assert result["plans"] == rounds[1]["plans"]
    assert result["history"]["evaluations"] == rounds[1]["history"]["evaluations"]


# -- stopped, killed, resumed -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing in the program may catch this."""


@pytest.fixture
def killed_after(monkeypatch):
    """Let the run die right after so many checkpoints are written."""
    write = Checkpoint.write

    def arm(count):
        written = []

        def write_and_die(self, path):
            write(self, path)
            written.append(path)
            if len(written) == count:
                raise Killed

        monkeypatch.setattr(Checkpoint, "write", write_and_die)

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize("checkpoints", [1, 4, 5, 6, 8])  # 22 steps a phase: mid-dense, last of dense, start, mid, end
def test_a_killed_run_goes_on_to_the_same_bytes(whole, tmp_path, killed_after, checkpoints):
    killed_after(checkpoints)
    with pytest.raises(Killed):
        run(settle(job()), tmp_path, checkpoint_every=5)
    killed_after(0)
    torch.manual_seed(99)  # whatever state the next process starts in
    result = run(settle(job()), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(whole[0])
    assert result["compressed"]["metric"] == whole[1]["compressed"]["metric"]
    assert result["dense"]["metric"] == whole[1]["dense"]["metric"]
    assert result["history"]["kept"] == whole[1]["history"]["kept"]


def test_a_run_killed_twice_goes_on_to_the_same_bytes(whole, tmp_path, killed_after):
    for count in (2, 3):
        killed_after(count)
        with pytest.raises(Killed):
            run(settle(job()), tmp_path, checkpoint_every=4, resume=True)
    killed_after(0)
    run(settle(job()), tmp_path, resume=True, checkpoint_every=3)
    assert artifact(tmp_path) == artifact(whole[0])


def test_a_killed_run_takes_its_moving_average_up(tmp_path, killed_after):
    options = {"dense_epochs": 1, "epochs": 1, "ema": 0.9}
    whole = run(settle(job(**options)), tmp_path / "whole")
    killed_after(4)  # eleven steps of the dense network, eleven of the compressed: in the middle of these
    with pytest.raises(Killed):
        run(settle(job(**options)), tmp_path / "killed", checkpoint_every=5)
    killed_after(0)
    again = run(settle(job(**options)), tmp_path / "killed", resume=True)
    assert artifact(tmp_path / "killed") == artifact(tmp_path / "whole")
    assert again["history"]["evaluations"] == whole["history"]["evaluations"]
    run(settle(job(**{**options, "ema": None})), tmp_path / "plain")
    assert artifact(tmp_path / "plain") != artifact(tmp_path / "whole")


class Interrupting(Silent):
    """Presses Ctrl-C at the first look in the compressing phase."""

    def __init__(self):
        self.name = ""

    @contextmanager
    def phase(self, name, *, total, done):
        self.name = name
        yield

    def step(self, done, text):
        if self.name == "compressed" and done == 4:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(whole, tmp_path):
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs have it ignored
    with pytest.raises(StoppedError, match=r"stopped at step 4 of 22 \(compressed\). Go on with --resume."):
        run(settle(job()), tmp_path, reporter=Interrupting())
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "model.safetensors").exists()
    run(settle(job()), tmp_path, resume=True)
    assert artifact(tmp_path) == artifact(whole[0])


def test_resuming_a_finished_run_changes_nothing(whole):
    folder, _ = whole
    before = artifact(folder)
    again = run(settle(job()), folder, resume=True)
    assert artifact(folder) == before
    assert again["compressed"]["metric"] == whole[1]["compressed"]["metric"]


def test_resuming_nothing_starts(tmp_path):
    run(settle(job(dense_epochs=0, epochs=0)), tmp_path / "new", resume=True)
    assert (tmp_path / "new" / "model.safetensors").is_file()


def test_another_job_cannot_be_resumed(whole):
    with pytest.raises(SpectrimError, match=r"seed was 3, now 4; .*|run of another job: .*seed was 3, now 4"):
        run(settle(job(seed=4)), whole[0], resume=True)


def test_a_folder_with_a_run_is_not_overwritten_by_accident(whole):
    with pytest.raises(SpectrimError, match=r"already holds a run\. Pass --resume"):
        run(settle(job()), whole[0])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpectrimError, match="is a file; a folder"):
        run(settle(job()), tmp_path / "file")


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    data = (whole[0] / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors: damaged"):
        run(settle(job()), tmp_path, resume=True)


def test_a_full_disk_leaves_the_old_artifact_whole(tmp_path, monkeypatch):
    short = job(dense_epochs=0, epochs=0)
    run(settle(short), tmp_path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("spectrim.artifact.writer.os.fsync", full)
    with pytest.raises(ArtifactError, match=r"No space left on device.*as it was"):
        run(settle(job(dense_epochs=0, epochs=0, seed=9)), tmp_path, overwrite=True)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


# -- refused before any time is spent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"settings": {"keep": 0}}, ValueError, r"keep must lie in \(0, 1\], got 0"),
        ({"settings": {"keep": 5}}, ValueError, "For 5 percent, pass keep=0.05"),
        ({"settings": {"kepe": 0.1}}, ValueError, "has no setting 'kepe'. It has keep, floor"),
        ({"where": ("head*",)}, spectrim.SiteError, r"where='head\*' matches none"),
        ({"method": "magic"}, spectrim.SiteError, "no method 'magic'. There are cfdp, frequency-regularization"),
        ({"model": "lenet"}, spectrim.SiteError, "no network 'lenet'. Did you mean 'lenet5'"),
        ({"data": "mnist:/nowhere"}, spectrim.DataError, "there is no folder '/nowhere'"),
        ({"weights": Path("/nowhere.pt")}, ArtifactError, "there is no weights file"),
        ({"precision": "fp16"}, spectrim.UnsupportedError, "--precision fp16 needs an accelerator"),
        ({"model": "tests.training.tiny:two_outputs"}, spectrim.UnsupportedError, "returns tuple; a tensor of class"),
        ({"model": "tests.training.tiny:wrong_outputs"}, spectrim.UnsupportedError, r"scores of shape \(2, 3\)"),
        ({"model": "lenet5"}, spectrim.UnsupportedError, "at least 16x16 pixels, got 8x8"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"lr": 0.0}, ValueError, "learning rate must be positive"),
        ({"epochs": -1}, ValueError, "epochs must be at least 0"),
        ({"batch_size": 0}, ValueError, "batch size must be at least 1"),
        ({"anneal": 0.0}, ValueError, r"anneal must lie in \(0, 1\]"),
        ({"rounds": 0}, ValueError, "asked for 0 rounds of 2 epochs together"),
        ({"rounds": 3}, ValueError, "asked for 3 rounds of 2 epochs together"),
        (
            {"rounds": 2},
            spectrim.UnsupportedError,
            "2 rounds of frequency-regularization, which reaches its target while",
        ),
        (
            {"repair": True},
            ValueError,
            r"a repair \(--repair\) is for weights that a cut left, of cfdp, pointwise-pruning; got freq",
        ),
        (
            {"method": "cfdp", "settings": {}, "reinit": "all", "repair": True},
            ValueError,
            "got cfdp that starts from fresh weights",
        ),
        (
            {"method": "pointwise-pruning", "settings": {"learn": True}, "repair": True},
            ValueError,
            "got pointwise-pruning that learns its bands. Leave it out",
        ),
        ({"reinit": "some"}, ValueError, "reinit must be one of none, hrankplus, all, got 'some'"),
        ({"reinit": "all"}, ValueError, "for one round of cfdp, got 1 of frequency-regularization"),
        (
            {"method": "cfdp", "settings": {}, "rounds": 2, "untrained": True},
            ValueError,
            "for one round of cfdp, got 2 of",
        ),
        ({"method": "cfdp", "settings": {}, "untrained": True}, ValueError, "leave out --weights and --dense-epochs"),
        (
            {"method": "cfdp", "settings": {}},
            spectrim.SiteError,
            "finds nothing to edit in Tiny; spectrim plan says why",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_once(changes, error, message):
    if changes.get("precision") == "fp16" and torch.cuda.is_available():
        pytest.skip("fp16 works here")
    with pytest.raises(error, match=message):
        settle(job(**changes), cpu=False)


def test_a_run_that_diverges_says_so(tmp_path):
    with pytest.raises(SpectrimError, match="Lower --lr"):
        run(settle(job(dense_lr=1e30, dense_epochs=1)), tmp_path)


def test_the_tiny_network_is_what_the_tests_think():
    assert isinstance(tiny(), Tiny)
