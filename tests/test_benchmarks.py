"""The programs that train small networks, and those of the pointwise benchmarks, without a step of training: arms, tables, options, pictures."""

import argparse
import importlib
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import spectrim as st

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def program():
    """A program of the folder by its name; they import each other by name."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module


def entry(arm, seed, accuracy, macs=100, **more):
    facts = {"hardware": {"cpu": "a processor"}, "versions": {"torch": "2"}, "commit": "0123456789abcdef"}
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": accuracy,
        "macs": macs,
        "macs_without_transforms": macs,
        **facts,
        **more,
    }


def document():
    return {
        "about": "About it.",
        "entries": [
            entry("dense", 0, 80.0),
            entry("dense", 1, 82.0),
            entry("output .5", 0, 79.0, macs=60),
            entry("output .5", 1, 80.0, macs=60),
            entry("width .85, tuned", 0, 81.0, macs=70),
        ],
        "times": [{"arm": "output .5", "batch": 8, "threads": 2, "time": 0.75, "commit": "fedcba"}],
    }


# -- small images -----------------------------------------------------------------------------------------------------


def test_every_arm_on_small_images_is_one_that_can_be_run(program, tmp_path, monkeypatch):
    cifar10 = program("pointwise_cifar10")
    monkeypatch.setattr(cifar10, "RUNS", tmp_path)
    families = ("dense", "energy", "output", "uniform", "learned", "measured", "width", "pixels")
    for name, arm in cifar10.ARMS.items():
        assert sum(family in name for family in families) == 1, f"{name} is drawn once"
        assert name.endswith(", tuned") == arm.get("tune", False)
        settings = {key: value for key, value in arm.items() if key not in ("kind", "tune", "repair")}
        assert (", repaired" in name) == arm.get("repair", False)
        if arm["kind"] == "bands":
            assert st.PointwisePruning(**settings).learn == name.startswith("learned")
        elif arm["kind"] == "width":
            assert st.CFDP(**settings).keep == arm["keep"]
        else:
            assert settings.keys() <= {"side"}
    assert len(cifar10.ARMS) >= cifar10.FIRST
    assert len({cifar10.place(name, seed) for name in cifar10.ARMS for seed in range(3)}) == 3 * len(cifar10.ARMS)


def test_the_table_of_small_images_compares_seed_by_seed(program):
    rows = program("pointwise_cifar10").table(document()).splitlines()
    assert "time, batch 8, 2 threads" in rows[0]
    assert rows[2:5] == [
        "| dense | 1.000 | 1.000 | – | 81.00 ± 1.41 |  | 2 |",
        "| width .85, tuned | 0.700 | 0.700 | – | 81.00 | +1.00 | 1 |",
        "| output .5 | 0.600 | 0.600 | 0.75 | 79.50 ± 0.71 | -1.50 ± 0.71 | 2 |",
    ]
    assert "commits 0123456789ab, fedcba;" in rows[-1]


@pytest.mark.parametrize("name", ["pointwise_cifar10", "cfdp_cifar10", "template_cifar10"])
def test_without_a_file_there_is_nothing_to_draw(program, name, tmp_path):
    with pytest.raises(SystemExit, match=r"none\.json does not exist\. Run without --draw first"):
        program(name).main(["--draw", "--out", str(tmp_path / "none.json")])


@pytest.mark.parametrize(
    ("name", "stray"),
    [
        ("pointwise_cifar10", ["--only", "everything"]),
        ("pointwise_cifar10", ["--epochs", "3"]),
        ("cfdp_cifar10", ["--cut", "everything"]),
        ("template_cifar10", ["--seeds", "first"]),
    ],
)
def test_what_a_program_does_not_know_ends_it(program, name, stray, capsys):
    with pytest.raises(SystemExit) as ended:
        program(name).main([*stray, "--draw"])
    assert ended.value.code == 2
    assert stray[1] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pointwise_cifar10", "cfdp_cifar10", "template_cifar10"])
def test_a_picture_is_drawn_from_the_file_alone(program, name, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    module = program(name)
    monkeypatch.setattr(module, "PICTURE", tmp_path / "deep" / "picture.png")
    more = [] if name == "template_cifar10" else ["--picture", str(module.PICTURE)]
    assert module.main(["--draw", *more]) == 0
    assert module.PICTURE.stat().st_size > 10_000
    assert capsys.readouterr().out == module.table(module.read(module.RESULTS)) + "\n"


def test_the_frontier_is_drawn_from_files_and_every_row_has_a_family(program, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    module = program("pointwise_frontier")
    picture = tmp_path / "deep" / "picture.png"
    monkeypatch.setattr(sys, "argv", ["pointwise_frontier.py", "--picture", str(picture)])
    module.main()
    assert picture.stat().st_size > 10_000
    names = {
        "time:0.7, energy": "bands by energy",
        "time:0.7, one band": "one band for each layer",
        "keep 0.6": "bands to a share",
    }
    assert {name: module.family_of(name).called for name in names} == names
    times = [{"name": "keep 0.5", "batch": 1, "threads": 1, "paired": 0.7}]
    rows = {"keep 0.5": {"points": -1.0}, "keep 0.3": {"points": -9.0}}
    assert module.dots_of(rows, times, (1, 1)) == [("keep 0.5", 0.7, -1.0)]
    assert module.dots_of(rows, times, (8, 1)) == []


def test_a_mean_of_one_has_no_deviation(program):
    spread = program("cifar").spread
    assert (spread([1.0]), spread([1.0, 2.0], "+.1f")) == ("1.00", "+1.5 ± 0.71")


# -- the full recipe --------------------------------------------------------------------------------------------------


def full_document(seed, accuracy, **more):
    row = entry("dense, tuned", seed, accuracy, tune=True, epochs=3.0, base_epochs=12.0)
    return {"about": "About it.", "entries": [entry("dense", seed, 90.0, base_epochs=12.0), row], "times": [], **more}


def test_every_arm_of_the_full_recipe_is_one_that_can_be_run(program):
    full = program("pointwise_cifar10_full")
    for name, arm in full.ARMS.items():
        assert name.endswith(", tuned") == arm.get("tune", False)
        assert (", repaired" in name) == arm.get("repair", False)
        settings = {key: value for key, value in arm.items() if key not in ("kind", "tune", "repair")}
        if arm["kind"] == "bands":
            assert st.PointwisePruning(**settings).learn == name.startswith("learned")
    assert set(full.names_of(0)) - set(full.names_of(1)) == {name for name in full.ARMS if "weight" in name}
    assert [each.shape[-1] for each in maps_of(full)] == [32, 32, 16, 8, 8, 4, 4]


def maps_of(full):
    with torch.device("meta"):
        net, x = full.small.empty({"kind": "dense"}, full.SETTING).eval(), torch.zeros(1, 3, 32, 32)
    repeats, found = [each[2] for each in full.SETTING], []
    for number, block in enumerate(net.features):
        x = block(x)
        if number in torch.tensor(repeats).cumsum(0):
            found.append(x)
    return found


def test_files_of_several_seeds_are_put_together_and_later_ones_count(program, tmp_path):
    full, cifar = program("pointwise_cifar10_full"), program("cifar")
    timed = {"arm": "dense", "batch": 8, "threads": 1, "time": 1.0, "commit": "c", **entry("", 0, 0)}
    cifar.write(tmp_path / "out.json", full_document(0, 50.0, times=[timed]))
    cifar.write(tmp_path / "a.json", full_document(1, 92.0))
    cifar.write(tmp_path / "b.json", full_document(0, 91.0))
    found = full.merged(tmp_path / "out.json", [tmp_path / "a.json", tmp_path / "b.json", tmp_path / "none.json"])
    assert [(each["seed"], each["accuracy"]) for each in found["entries"]] == [(0, 90), (0, 91), (1, 90), (1, 92)]
    assert (found["times"], cifar.read(tmp_path / "out.json")) == ([timed], found)
    rows = full.table(found).splitlines()
    assert rows[3] == "| dense, tuned |  | 1.000 | 1.000 | – | 91.50 ± 0.71 | +1.50 ± 0.71 |  | 2 |"
    assert "torch 2, 12 epochs, tuned for 3; times on a processor, torch 2" in rows[-1]


def test_networks_go_into_archives_that_have_room_and_come_back(program, tmp_path, monkeypatch):
    full = program("pointwise_cifar10_full")
    monkeypatch.setattr(full, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(full.small, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(full, "_PACK", 5_000_000)
    net = full.small.empty({"kind": "dense"}, full.SETTING)
    for arm in ("dense", "dense, tuned"):
        place = full.artifact(tmp_path / "runs", arm, 0)
        st.save(net, place)
        full.pack(place, tmp_path / "kept")
        place.unlink()
    assert len([*(tmp_path / "kept").glob("*.zip")]) == 2
    assert full.kept(tmp_path / "kept", "24 pixels, tuned") is None
    found = full.kept(tmp_path / "kept", "dense, tuned").state_dict()
    assert all(value.half().equal(found[name].half()) for name, value in net.state_dict().items())


@pytest.fixture
def boxed(program):
    """Sixty random images, a network that trains in no time, and how."""
    module, cifar = program("boxed"), program("cifar")
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 32, 32, 3), generator=draw, dtype=torch.uint8)
    images = cifar.Images(pixels, torch.randint(0, 10, (60,), generator=draw))
    recipe = module.Recipe(batch=10, lr=0.1, warmup=0.1, smoothing=0.1, bfloat16=False, seed=3)
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 10))

    def train(box, **more):
        return module.trained_(net, lambda net: torch.optim.SGD(net.parameters(), 0.1), images, recipe, box, **more)

    return module, images, recipe, train, net


def test_so_many_epochs_are_so_many_steps_and_progress_ends_at_one(boxed):
    module, _, _, train, net = boxed
    seen = []
    before = net[2].weight.detach().clone()
    done = train(module.Box(epochs=2.5), after=lambda _, progress: seen.append(progress))
    assert (done.steps, done.epochs, len(seen), seen[-1]) == (15, 2.5, 15, 1.0)
    assert seen == sorted(seen)
    assert not net[2].weight.equal(before)


def test_a_run_in_seconds_takes_about_those_and_no_more_epochs_than_the_most(boxed):
    module, _, _, train, _ = boxed
    done = train(module.Box(seconds=0.5, most=100_000))
    assert done.epochs > 2
    assert 0.2 < done.train_seconds < 5
    assert train(module.Box(seconds=100, most=3)).steps == 18
    assert train(module.Box(seconds=1e-9)).steps == 1


def test_a_box_is_epochs_or_seconds(boxed):
    for given in ({}, {"epochs": 1, "seconds": 1}):
        with pytest.raises(ValueError, match="give epochs or seconds, one of them"):
            boxed[0].Box(**given)


def test_crops_are_those_of_the_epoch_and_the_seed_and_show_the_images(boxed):
    module, images, recipe, _, _ = boxed
    crops = module.Crops(images, recipe)
    one, again, other = ([*crops.epoch(number)] for number in (0, 0, 1))
    assert len(one) == 6
    assert all(a.equal(b) and la.equal(lb) for (a, la), (b, lb) in zip(one, again, strict=True))
    assert not one[0][0].equal(other[0][0])
    assert torch.cat([labels for _, labels in one]).sort()[0].equal(images.labels.sort()[0])
    flat = module.Images(torch.full_like(images.pixels, 128), images.labels)
    x, _ = next(module.Crops(flat, recipe).epoch(0))
    inside = x[:, :, 8:24, 8:24]
    assert torch.allclose(
        inside, ((128 / 255 - torch.tensor(module.MEAN)) / torch.tensor(module.STD))[:, None, None], atol=1e-5
    )


@pytest.fixture
def runs(program, tmp_path, boxed):
    """Those of a process that has read its data: no file, sixty images."""
    full = program("pointwise_cifar10_full")
    found = object.__new__(full.Runs)
    found.given = argparse.Namespace(batch_size=10, seeds=[1], only=None, stop_after=None, out=tmp_path / "none.json")
    found.on_device, found.device, found.start = (boxed[1], boxed[1]), torch.device("cpu"), time.perf_counter()
    found.results = {"entries": [], "times": []}
    found.base = lambda _: (boxed[4], {})
    return full, found


def test_a_budget_is_shared_by_all_that_is_tuned_but_the_sweep(runs, boxed, monkeypatch):
    full, found = runs
    found.begun = lambda *_: None
    found.step_seconds = lambda net, *_: 0.1 if net is boxed[4] else 0.4
    arms = [full.settings_of(name) for name in full.names_of(1)]
    steps = [0.4 if arm["kind"] == "bands" else 0.1 for arm in arms if arm.get("tune")]
    budget = full.BESIDES * len(arms) + 3.7 * 6 * sum(steps)
    assert found.epochs_within(budget, 0) == found.epochs_within(budget, 1) == 3.5
    assert found.epochs_within(1, 1) == 1
    assert found.epochs_within(1e6, 1) == full.MOST_TUNING


def test_an_arm_that_fails_does_not_end_the_others(runs, capsys):
    full, found = runs
    done = []

    def arm(name, *_):
        if name == "measured .5, repaired":
            raise RuntimeError("no such kernel")
        done.append(name)

    found.arm = arm
    found.all()
    assert done == [name for name in full.names_of(1) if name != "measured .5, repaired"]
    assert "RuntimeError: no such kernel" in capsys.readouterr().out
    found.given.stop_after = -1.0
    found.all()
    assert len(done) == len(full.names_of(1)) - 1


def test_without_a_history_the_environment_says_what_is_measured(program, monkeypatch):
    monkeypatch.setenv("SPECTRIM_COMMIT", "0123abc")
    assert program("cifar").commit() == program("rounds")._commit() == "0123abc"
    monkeypatch.delenv("SPECTRIM_COMMIT")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert program("cifar").commit() is program("rounds")._commit() is None


# -- peers ------------------------------------------------------------------------------------------------------------


def test_every_tuned_peer_begins_where_another_one_is(program):
    peers, learned = program("pointwise_peers"), program("pointwise_learned")
    assert peers.ARMS.keys().isdisjoint(learned.ARMS), "both write into one file"
    for name, arm in peers.ARMS.items():
        assert name.endswith(", tuned") == arm.get("tune", False)
        assert ("width" in arm) != ("side" in arm)
        begins = name.removesuffix(", tuned")
        assert peers.ARMS[begins] | {"tune": True} == arm | {"tune": True}
        assert [*peers.ARMS].index(begins) <= [*peers.ARMS].index(name)


def test_peers_cut_layers_that_the_network_has(program):
    peers = program("pointwise_peers")
    with torch.device("meta"):
        known = dict(torchvision.models.mobilenet_v2().named_modules())
    assert all(isinstance(known[name], nn.Conv2d) for name in peers.INNER)
    assert peers.Smaller(nn.Identity(), 5)(torch.rand(2, 3, 8, 8)).shape == (2, 3, 5, 5)


def test_a_row_of_a_peer_leaves_the_others_in_the_file(program, tmp_path, monkeypatch):
    peers = program("pointwise_peers")
    there, written = tmp_path / "learned.json", {}
    there.write_text(
        '{"rows": [{"name": "a", "x": 1}, {"name": "b"}], "seed": 3, "search": [], "images": 1, "sample": 2, "views": 4}'
    )
    monkeypatch.setattr(
        peers.rounds,
        "write",
        lambda name, rows, *, seed, **more: written.update(name=name, rows=rows, seed=seed, **more),
    )
    peers.write(there, {"name": "a", "x": 2})
    assert written == {
        "name": "pointwise_learned", "rows": [{"name": "a", "x": 2}, {"name": "b"}], "seed": 3,
        "search": [], "images": 1, "sample": 2, "views": 4,
    }  # fmt: skip


# -- other networks ---------------------------------------------------------------------------------------------------


def row(network, **more):
    return {
        "network": network, "keep": 0.5, "score": "output", "calibration": 32, "without": "", "note": "", "pointwise": 3, "cut": 2, "left": {"has 2 groups": 1},
        "macs": 200, "macs_without_transforms": 100, "macs_with": 120, "dense": {"cpu_ms": 12.34}, "fused": 0.9, "time": 0.75,
        "time_median": 0.8, "commit": "abc",
    } | more  # fmt: skip


def test_the_table_of_networks_marks_those_without_weights(program):
    seen = {"images": 1300, "top1_dense": 70.0, "top1": 69.0, "points": -1.0, "interval": 0.5, "agreement": 98.76}
    rows = [row("One", **seen), row("Two", without="none to be had", note="a note")]
    told = {
        "hardware": {"cpu": "a processor"},
        "versions": {"torch": "2"},
        "rounds": 40,
        "rows": rows,
    }
    lines = program("pointwise_networks").table(told).splitlines()
    numbers = "0.5 | output, 32 images | 2 of 3 | 0.500 | 0.600 | 12.3 | 0.900 | 0.750 / 0.800"
    assert lines[2] == f"| One | {numbers} | 69.00 | -1.00 (-1.50 to -0.50) | 98.8 |"
    assert lines[3] == f"| Two* | {numbers} |  |  |  |"
    assert "Two: a note" in lines[-1]
    assert "has 2 groups (One, Two)" in lines[-1]


def test_networks_are_prepared_and_folded_without_changing_what_they_compute(program):
    networks = program("pointwise_networks")
    assert set(networks.OTHERS) <= set(networks.KEEPS), "rows are written in the order of these"
    pixels = torch.randint(0, 256, (2, 6, 5, 3), dtype=torch.uint8)
    x = networks.NETWORKS["EfficientNet-Lite0"].prepared(pixels)
    assert x.shape == (2, 3, 6, 5)
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0, :, 0, 0], pixels[0, 0, 0] / 127.5 - 1, atol=1e-6, rtol=1e-6)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    )
    net(torch.rand(8, 3, 6, 5) * 3)
    expected = net.eval()(x)
    networks.fold(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)


def test_a_network_that_is_not_there_ends_the_program(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pointwise_networks.py", "--only", "AlexNet"])
    with pytest.raises(SystemExit):
        program("pointwise_networks").main()
    assert "invalid choice: 'AlexNet'" in capsys.readouterr().err
