"""The commands, as typed; errors are one sentence and exit status 2."""

import errno
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import spectrim
from spectrim.cli import main, options
from spectrim.measure.choice import WHOLE, Choice
from spectrim.methods import METHODS
from spectrim.methods.cfdp_rates import RATES
from spectrim.training import exporting
from spectrim.training.recipes import CARDS
from tests.training.tiny import pixels, tiny

TINY, PIXELS = "tests.training.tiny:tiny", "tests.training.tiny:pixels"
FIT = ["--data", "digits", "--image-size", "8"]


@pytest.fixture
def shell(monkeypatch, capsys):
    """Run a command line in this process: (exit status, standard output, standard error)."""

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["spectrim", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return typed


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "model.safetensors"
    model = spectrim.compress_(tiny(), spectrim.FrequencyRegularization(keep=0.2))
    spectrim.anneal_(model, 1.0)
    spectrim.save(model, path)
    return path


# -- help -------------------------------------------------------------------------------------------------------------

COMMANDS = ["compress", "plan", "inspect", "eval", "bench", "export", "import-frereg", "methods"]


def test_help_appears_at_once_and_without_torch():
    code = (
        "import sys, time; start = time.process_time(); sys.argv = ['spectrim', 'compress', '--help']\n"
        "from spectrim.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'accelerate', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy)); print('SECONDS', time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert float(done.stdout.rpartition("SECONDS ")[2]) < 1.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(shell, command):
    status, out, _ = shell(command, "--help")
    assert status == 0
    assert f"spectrim {command}" in out
    assert "Example" in out


def test_without_arguments_the_commands_are_listed(shell):
    _, out, err = shell()
    assert all(command in out + err for command in COMMANDS)


def test_the_version_is_printed(shell):
    assert shell("--version")[1].startswith("spectrim 0.")


def test_completion_knows_the_methods_of_the_library():
    assert set(METHODS) == set(options.METHODS)


def test_completion_knows_the_recipes_of_the_library():
    assert tuple(CARDS) == options.RECIPES


def test_completion_knows_the_networks_of_the_cfdp_paper():
    assert tuple(RATES) == options.WIDTHS


def test_completion_scripts_are_made(shell, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    _, out, _ = shell("--show-completion", "bash")
    assert "_SPECTRIM_COMPLETE=complete_bash" in out


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "spectrim", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("spectrim ")


# -- what works -------------------------------------------------------------------------------------------------------


def test_plan_shows_the_cut_before_it_is_made(shell):
    status, out, _ = shell("plan", "lenet5", "--data", "digits", "--method", "cfdp", "--score", "l2", "--keep", "0.5")
    assert status == 0
    assert "CFDP(keep=0.5, score='l2') on LeNet5: 2 edits, 2 skipped, 429,510 → 112,442 parameters" in out
    assert "keep 64 of 128 channels; l2 scores below" in out
    assert "skipped: is the output of the model" in out


def test_plan_takes_the_papers_widths_by_name(shell):
    where = ["resnet56", "--data", "digits", "--image-size", "32", "--method", "cfdp", "--score", "random"]
    status, out, err = shell("plan", *where, "--keep", "resnet56", "--set", "round_to=1", "--where", "layer1.*.conv1")
    assert status == 0, err
    assert "keep='resnet56'" in out.splitlines()[0]
    assert re.search(r"layer1\.0\.conv1 +keep 13 of 16 channels", out)
    mistakes = {
        "resnet57": "keep must be a number, a mapping, one of vgg16_bn,",
        "resnet56:[0.18]": "takes a list of 30 rates",
    }
    for keep, message in mistakes.items():
        status, _, err = shell("plan", *where, "--keep", keep)
        assert status == 2
        assert message in err


CFDP = ["--data", "digits", "--method", "cfdp", "--score", "l2"]


def test_plan_meets_a_target(shell, tmp_path):
    status, out, _ = shell("plan", "lenet5", *CFDP, "--target", "macs:0.5")
    assert status == 0
    assert "; macs 0.4" in out.splitlines()[0]
    assert out.splitlines()[0].endswith(" of dense, asked 0.5")
    assert re.search(r"saves [\d,]+ parameters and [\d,]+ MACs", out)
    status, out, _ = shell("plan", "lenet5", *CFDP, "--target", "params:100000", "--json")
    budget = json.loads(out)["budget"]
    assert (budget["target"], budget["dense"]) == ("params:100000", 429_510)
    assert 80_000 < budget["left"] <= 100_000


@pytest.mark.parametrize("command", [["export", TINY, "x.safetensors"], ["inspect", TINY, "--channels"]])
def test_a_folder_that_is_not_there_is_noticed_before_the_work(shell, command):
    status, _, err = shell(*command, *FIT, "--out", "nowhere/file.onnx")
    assert status == 2
    assert "--out nowhere/file.onnx: there is no folder 'nowhere'. Make it first" in err


def test_export_says_how_many_layers_read_all_frequencies_again(shell, artifact, tmp_path, monkeypatch):
    def exported(_, __, out, choices):
        out.write_bytes(b"model")
        choices += [
            Choice(name, (1, 2, 4, 4), {"dense": 1.0, "flat": 2.0}, taken)
            for name, taken in (("a", "dense"), ("b", "flat"))
        ]
        choices.append(Choice("c", (1, 2, 4, 4), {"dense": 1.0, "staged": 2.0}, "dense"))
        return 0.0

    monkeypatch.setattr(exporting, "export_onnx", exported)
    status, out, _ = shell("export", TINY, artifact, "--out", tmp_path / "model.onnx", *FIT)
    assert status == 0
    assert "1 of 2 cut pointwise layers are faster dense there, and read all frequencies again\n" in out
    assert "the layers above, each between its neighbours: 3 ms dense → 4 ms in onnxruntime, one thread\n" in out


@pytest.mark.parametrize(("taken", "after"), [("as chosen", "0.5"), ("dense", "2")])
def test_export_says_what_the_network_as_a_whole_takes(shell, artifact, tmp_path, monkeypatch, taken, after):
    def exported(_, __, out, choices):
        out.write_bytes(b"model")
        form = "flat" if taken == "as chosen" else "dense"
        choices.append(Choice("a", (1, 2, 4, 4), {"dense": 1.0, "flat": 0.5}, form))
        choices.append(Choice(WHOLE, (1, 1, 8, 8), {"dense": 2.0, "as chosen": 0.5}, taken))
        return 0.0

    monkeypatch.setattr(exporting, "export_onnx", exported)
    status, out, _ = shell("export", TINY, artifact, "--out", tmp_path / "model.onnx", *FIT)
    assert status == 0
    assert f"the network: 2 ms dense → {after} ms in onnxruntime, one thread\n" in out
    lost = "the network as a whole is no faster with cut layers: all 1 read all frequencies again\n"
    assert (lost in out) == (taken == "dense")
    assert "are faster dense there" not in out


@pytest.mark.parametrize("method", ["cfdp", "pointwise-pruning"])
def test_plan_says_in_the_words_of_the_shell_that_images_are_missing(shell, method):
    status, out, err = shell("plan", TINY, "--method", method, "--image-channels", 1, "--classes", 10)
    assert (status, out) == (2, "")
    assert err == f"spectrim: {method} decides by what layers read, and needs images: add --data SOURCE.\n"


def test_plan_says_that_multiplications_depend_on_the_size_of_images(shell):
    status, out, err = shell("plan", "resnet20", "--method", "reconstructed-filters", "--target", "macs:0.6")
    assert (status, out) == (2, "")
    assert err == (
        "spectrim: target macs:0.6 counts multiplications, which depend on the size of the images: add --data SOURCE, or ask for "
        "params.\n"
    )
    assert shell("plan", "resnet20", "--method", "reconstructed-filters", "--target", "params:0.6")[0] == 0


@pytest.mark.parametrize("method", options.METHODS[1:])
def test_the_help_of_compress_shows_each_method_and_which_targets_it_has(shell, method):
    out = " ".join(shell("compress", "--help")[1].replace("│", " ").split())
    assert f"--method {method} " in out
    assert "for reconstructed-filters macs and params" in out


def test_plan_looks_at_the_weights_that_are_given(shell, tmp_path):
    from spectrim.zoo.lenet import lenet5

    torch.manual_seed(1)
    model = lenet5()
    with torch.no_grad():
        model.conv2.weight[4:68], model.conv2.bias[4:68] = 0, 0
    file = tmp_path / "w.pt"
    torch.save(model.state_dict(), file)
    status, out, _ = shell("plan", "lenet5", *CFDP, "--keep", "0.5", "--weights", file, "--json")
    assert status == 0
    (edit,) = [edit for edit in json.loads(out)["edits"] if edit["path"] == "conv2"]
    assert edit["channels"] == list(range(4, 68))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*CFDP, "--target", "macs:0.001"], "target macs:0.001 is below what can be reached, 0."),
        ([*CFDP, "--target", "macs:50"], "For 50 percent, write macs:0.5."),
        ([*CFDP, "--target", "half"], "target must be QUANTITY:NUMBER with one of macs, params, latency"),
        ([*CFDP, "--target", "macs:0.5", "--keep", "0.5"], "give one of them, got keep=0.5 and target='macs:0.5'"),
        (["--target", "macs:0.5"], "frequency-regularization has no setting 'target'. It has keep"),
    ],
)
def test_a_target_that_cannot_be_met_is_one_sentence(shell, arguments, said):
    status, out, err = shell("plan", "lenet5", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("spectrim: ")
    assert err.count("\n") == 1
    assert said in err


def test_compress_meets_a_target_and_writes_down_what_is_left(shell, tmp_path):
    status, _, err = shell("compress", "lenet5", *CFDP, "--target", "macs:0.5", "--dense-epochs", "1", "--epochs", "1",
                           "--out", tmp_path / "half", "--cpu")  # fmt: skip
    assert status == 0, err
    result = json.loads((tmp_path / "half" / "result.json").read_text())
    assert result["compressed"]["macs"] == result["plans"][0]["budget"]["left"] <= 0.5 * result["dense"]["macs"]
    page = (tmp_path / "half" / "report.html").read_text()
    assert "asked for macs:0.5, 0.4" in page


def test_compress_cuts_channels_and_the_artifact_loads(shell, tmp_path):
    arguments = ["--data", "digits", "--method", "cfdp", "--score", "ortho", "--keep", "0.5", "--epochs", "1"]
    status, _, err = shell("compress", "lenet5", *arguments, "--out", tmp_path / "run", "--cpu")
    assert status == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "cfdp" in json.dumps(result)
    status, _, err = shell("eval", "lenet5", tmp_path / "run" / "model.safetensors", "--data", "digits")
    assert status == 0, err


def test_plan_prints_what_would_be_done(shell):
    status, out, _ = shell("plan", "lenet5", "--keep", "0.01", "--floor", "1", "--where", "!fc2*")
    assert status == 0
    assert "fc1.weight    keep 4,014 of 401,408 coefficients" in out
    assert "fc2.weight    skipped: left dense by where" in out


def test_plan_keeps_at_least_the_papers_count_by_default(shell):
    assert "conv1.weight  keep 128 of 200 coefficients" in shell("plan", "lenet5", "--keep", "0.01")[1]


def test_plan_takes_a_value_for_each_layer(shell):
    _, out, _ = shell(
        "plan", "lenet5", "--keep", "conv*=0.5", "--keep", "*=0.1", "--floor", "fc2.*=300", "--floor", "*=2"
    )
    assert "keep 100 of 200" in out
    assert "keep 40,141 of 401,408" in out
    assert "keep 300 of 1,960" in out


def test_a_plan_as_json_can_be_replayed(shell):
    _, out, _ = shell("plan", TINY, *FIT, "--keep", "0.5", "--json")
    model = spectrim.Plan.from_json(out).apply_(tiny())
    assert len(model.state_dict()) > len(tiny().state_dict())


def test_plan_takes_any_setting_of_the_method(shell):
    _, out, _ = shell("plan", "lenet5", "--set", "order=linf", "--set", "decay=0.5", "--schedule", "cosine")
    assert "order='linf'" in out
    assert "schedule='cosine'" in out


def test_inspect_looks_into_a_file_and_into_a_network(shell, artifact):
    status, out, _ = shell("inspect", artifact)
    assert status == 0
    assert "spectral" in out
    rows = json.loads(shell("inspect", artifact, "--json")[1])["rows"]
    assert rows[0]["site"] == "conv.weight"
    assert "99 % of energy" in shell("inspect", TINY)[1]


def test_inspect_draws_the_scores_of_channels(shell, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "scores.png"
    typed = ["inspect", "lenet5", "--channels", "--data", "digits", "--score", "l2", "--keep", "0.5"]
    status, out, err = shell(*typed, "--out", picture)
    assert status == 0, err
    assert "CFDP(keep=0.5, score='l2') on LeNet5: 3 groups of channels, 2 of them cut" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"drawn in {picture}" in out
    status, out, _ = shell(*typed, "--where", "conv2", "--json")
    assert [group["path"] for group in json.loads(out)["groups"]] == ["conv2"]


def test_methods_are_listed_with_their_settings(shell):
    assert "frequency-regularization" in shell("methods")[1]
    rows = json.loads(shell("methods", "--json")[1])
    keeps = {row["name"]: row["settings"]["keep"] for row in rows}
    assert keeps == {
        "cfdp": None,
        "frequency-regularization": 0.01,
        "pointwise-pruning": None,
        "reconstructed-filters": None,
    }
    assert all(row["meanings"].keys() == row["settings"].keys() and all(row["meanings"].values()) for row in rows)
    assert "macs:0.5, params:0.3, latency:0.7" in shell("methods")[1]


def test_eval_measures_an_artifact(shell, artifact):
    status, out, _ = shell("eval", TINY, artifact, *FIT, "--json", "--cpu")
    assert status == 0
    found = json.loads(out)
    assert found["images"] == 359
    assert 0 <= found["value"] <= 1
    assert shell("eval", TINY, artifact, *FIT)[1].startswith("accuracy ")


def test_bench_compares_the_three_forms(shell, artifact):
    _, out, _ = shell("bench", TINY, artifact, *FIT, "--rounds", "2", "--json", "--cpu")
    rows = json.loads(out)
    assert list(rows) == ["dense", "decoded", "finalized"]
    assert rows["dense"]["macs"] == rows["decoded"]["macs"]
    assert "ms" in shell("bench", TINY, artifact, *FIT, "--rounds", "2", "--threads", "1", "--cpu")[1]


@pytest.mark.parametrize(("there", "asked", "expected"), [(False, [], 0), (True, [], 1), (False, ["--kernels"], 1)])
def test_bench_runs_kernels_that_are_compiled_and_compiles_none_unasked(
    shell, artifact, monkeypatch, there, asked, expected
):
    calls = []
    monkeypatch.setattr("spectrim.kernels.building.compiled", lambda: there)
    monkeypatch.setattr("spectrim.kernels.building.build", lambda: calls.append(0))
    assert shell("bench", TINY, artifact, *FIT, "--rounds", "2", "--cpu", *asked)[0] == 0
    assert len(calls) == expected


@pytest.mark.parametrize("restore", [False, True])
def test_bench_restores_bands_that_lose_if_asked_and_warns_in_a_sentence(shell, tmp_path, monkeypatch, restore):
    def fastest(forms, x, *, site, **_):
        return Choice(site, tuple(x.shape), {name: 1.0 + (name != "dense") for name in forms}, "dense")

    monkeypatch.setattr("spectrim.measure.band_forms.fastest", fastest)
    model = pixels()
    spectrim.compress_(model, spectrim.PointwisePruning(keep=0.5, pays="always"), calibration=torch.rand(4, 1, 8, 8))
    spectrim.save(model, tmp_path / "m.safetensors")
    asked = ["--classes", "2", "--image-channels", "1", "--image-size", "8", "--rounds", "2", "--cpu"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        status, out, err = shell("bench", PIXELS, tmp_path / "m.safetensors", *asked, *["--restore"] * restore)
    assert status == 0, err
    counted = [line.split()[0] for line in out.splitlines() if re.search(r" MACs \([\d,]+ without transforms\)", line)]
    assert counted == (["decoded"] if restore else ["decoded", "finalized"])
    assert f"head: {'dense' if restore else 'banded'} (dense 1.0000, banded 2.0000 ms)" in out
    slower = [each for each in caught if "run slower here than dense ones" in str(each.message)]
    assert len(slower) == (not restore)


def test_the_librarys_own_warnings_are_sentences(shell):
    shell("--version")
    own = str(Path(spectrim.__file__).parent / "verbs.py")
    assert warnings.formatwarning(UserWarning("slow."), UserWarning, own, 3) == "spectrim: slow.\n"
    assert "other.py:3: UserWarning: slow." in warnings.formatwarning("slow.", UserWarning, "other.py", 3)


def test_export_writes_an_onnx_file_that_runs(shell, artifact, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    status, out, err = shell("export", TINY, artifact, *FIT, "--out", tmp_path / "m.onnx")
    assert status == 0, err
    assert "largest difference to torch" in out
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(5, 1, 8, 8)
    (scores,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = spectrim.load_(tiny(), artifact).eval()(images)
    assert torch.allclose(torch.from_numpy(scores), expected, atol=1e-4)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.onnx"]


def test_a_checkpoint_of_the_release_becomes_an_artifact(shell, tmp_path):
    code = torch.zeros(8, 1, 5, 5)
    code[0, 0, 0, :3] = torch.tensor([3.0, 2.0, 1.0])
    torch.save({"0.weight": code.to_sparse()}, tmp_path / "c.pt")
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(1, 8, 5, bias=False))\n"
    )
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        status, out, err = shell("import-frereg", "c.pt", "--model", "net:make", "--out", "a.safetensors")
    finally:
        os.chdir(here)
    assert status == 0, err
    assert "coefficients" in out
    assert spectrim.inspect(tmp_path / "a.safetensors").coded[0].kept >= 3


def test_compress_prints_before_and_after_and_the_files(shell, tmp_path):
    arguments = [TINY, *FIT, "--keep", "0.2", "--dense-epochs", "1", "--epochs", "1", "--batch-size", "256", "--cpu"]
    out_folder = tmp_path / "runs" / "a"
    status, out, err = shell("compress", *arguments, "--out", out_folder)
    assert status == 0, err
    assert "before" in out
    assert f"report    {out_folder}/report.html" in out
    result = json.loads((out_folder / "result.json").read_text())
    assert result["method"] == {
        "name": "frequency-regularization", "keep": 0.2, "floor": 128, "order": "l1-lex", "norm": "ortho",
        "schedule": "geometric", "compat": None, "decay": 0.001,
    }  # fmt: skip
    shown = json.loads(shell("eval", TINY, out_folder / "model.safetensors", *FIT, "--json", "--cpu")[1])
    assert shown["value"] == pytest.approx(result["compressed"]["metric"], abs=1e-6)


# -- what does not ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan", "lenet"], "no network 'lenet'. Did you mean 'lenet5'"),
        (["compress", "lenet", "--data", "digits", "--out", "x"], "no network 'lenet'"),
        (["compress", "lenet5", "--data", "mnist:/no/where", "--out", "x"], "there is no folder '/no/where'"),
        (["compress", "lenet5", "--data", "digits", "--keep", "0", "--out", "x"], "keep must lie in (0, 1], got 0."),
        (["compress", "lenet5", "--data", "digits", "--keep", "5", "--out", "x"], "For 5 percent, pass keep=0.05."),
        (
            ["compress", "lenet5", "--data", "digits", "--where", "layers.*", "--out", "x"],
            "where='layers.*' matches none",
        ),
        (["plan", "lenet5", "--keep", "much"], "--keep takes a number, or GLOB=a number, got 'much'."),
        (["plan", "lenet5", "--floor", "*=1.5"], "--floor takes a whole number"),
        (["plan", "lenet5", "--keep", "0.1", "--keep", "0.2"], "--keep takes GLOB=VALUE here, got '0.1'."),
        (["plan", "lenet5", "--set", "order"], "--set takes NAME=VALUE here, got 'order'."),
        (["plan", "lenet5", "--set", "colour=red"], "has no setting 'colour'. It has keep, floor"),
        (["plan", "lenet5", "--method", "magic"], "no method 'magic'. There are cfdp, frequency-regularization"),
        (
            ["plan", "lenet5", "--method", "cfdp"],
            "cfdp decides by what layers read, and needs images: add --data SOURCE",
        ),
        (["plan", "lenet5", "--method", "cfdp", "--score", "best"], "score must be one of ortho, paper, official"),
        (["plan", "lenet5", "--score", "ortho"], "frequency-regularization has no setting 'score'"),
        (["plan", "lenet5", "--schedule", "never"], "schedule must be one of geometric"),
        (
            ["inspect", "lenet5", "--keep", "0.5"],
            "--keep is about the scores of channels or frequencies. Add --channels or --f",
        ),
        (["inspect", "lenet5", "--channels"], "--channels scores what layers read and needs images: add --data"),
        (["inspect", "/no/file.safetensors"], "no network '/no/file.safetensors'"),
        (["eval", "lenet5", "/no/file", "--data", "digits"], "there is no weights file '/no/file'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_status_2(shell, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    status, out, err = shell(*arguments)
    assert status == 2
    assert sentence in err
    assert out == ""
    assert err.startswith("spectrim: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_a_missing_option_is_a_usage_error(shell):
    status, _, err = shell("compress", "lenet5")
    assert status == 2
    assert "--data" in err


def test_a_corrupt_image_is_named(shell, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            (tmp_path / name / f"{number}.png").write_bytes(b"no image")
    status, _, err = shell("compress", "lenet5", "--data", f"images:{tmp_path}", "--out", tmp_path / "out")
    assert status == 2
    assert ".png: not a readable image" in err


def test_a_corrupt_idx_file_is_named(shell, tmp_path):
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(b"\x1f\x8b broken")
    status, _, err = shell("compress", "lenet5", "--data", f"mnist:{tmp_path}", "--out", tmp_path / "out")
    assert status == 2
    assert "train-images-idx3-ubyte.gz: damaged gzip data" in err


def test_an_artifact_for_another_architecture_is_named(shell, artifact):
    status, _, err = shell("eval", "resnet20", artifact, "--data", "digits")
    assert status == 2
    assert "another architecture" in err
    status, _, err = shell("eval", TINY, "LICENSE", *FIT)
    assert status == 2
    assert "neither a safetensors file nor a state dict" in err


def test_a_full_disk_is_one_sentence_and_leaves_the_old_files(shell, tmp_path, monkeypatch):
    out = tmp_path / "a"
    arguments = ["compress", TINY, *FIT, "--dense-epochs", "0", "--epochs", "0", "--cpu", "--out", out]
    assert shell(*arguments)[0] == 0
    before = {each.name: each.read_bytes() for each in out.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("spectrim.artifact.writer.os.fsync", full)
    status, _, err = shell(*arguments, "--seed", "1", "--overwrite")
    assert status == 2
    assert "No space left on device" in err
    assert {each.name: each.read_bytes() for each in out.iterdir()} == before


def test_a_missing_extra_is_one_line_to_install_it(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delitem(sys.modules, "spectrim.training.setting", raising=False)
    status, _, err = shell("compress", "lenet5", "--data", "digits", "--out", "x")
    assert status == 2
    assert "pip install 'spectrim[train]'" in err


def test_ctrl_c_exits_with_130(shell, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("spectrim.training.sources.digits.open_source", interrupted)
    assert shell("eval", TINY, "LICENSE", *FIT)[0] == 130


def test_a_stopped_run_exits_with_130_and_says_how_to_go_on(shell, monkeypatch, tmp_path):
    from spectrim.training.watched import StoppedError

    def stopped(*arguments, **options):
        raise StoppedError("stopped at step 3. Go on with --resume.")

    monkeypatch.setattr("spectrim.training.run.run", stopped)
    status, _, err = shell("compress", TINY, *FIT, "--out", tmp_path / "x")
    assert (status, err) == (130, "spectrim: stopped at step 3. Go on with --resume.\n")


def test_a_fault_of_the_program_shows_its_traceback(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("spectrim.training.models.build", broken)
    monkeypatch.setattr(sys, "argv", ["spectrim", "inspect", "lenet5"])
    with pytest.raises(RuntimeError, match="a bug"):
        main()
