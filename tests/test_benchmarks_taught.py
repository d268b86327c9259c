"""The program that teaches MobileNetV2 on an accelerator and the one that judges it, without data: arms, crops, a few steps, the table."""

import copy
import fnmatch
import gc
import importlib
import weakref
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import torchvision
from torch import nn

import spectrim as st

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def taught(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("pointwise_taught")


@pytest.fixture
def judge(taught):
    return importlib.import_module("pointwise_taught_judge")


class Small(nn.Module):
    """What the lesson needs of a MobileNetV2."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.Sequential(nn.ReLU6(), nn.Conv2d(4, 6, 1)))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(6, 5))

    def forward(self, x):
        return self.classifier[1](self.features(x).mean((2, 3)))


def test_every_arm_is_one_that_can_be_planned(taught):
    with torch.device("meta"):
        known = dict(torchvision.models.mobilenet_v2().named_modules())
    for name, arm in taught.ARMS.items():
        assert sum(what in arm for what in ("keep", "target", "side", "width")) == 1
        if "keep" in arm:
            asked = taught.method(arm)
            assert ("rate" in arm) == name.endswith(", slow")
            assert taught.ARMS[name.removesuffix(", slow")] | {"rate": 0} == arm | {"rate": 0}, "they share a plan"
            assert f".{round(10 * asked.keep)}" in name
            assert (asked.levels == 1) == name.startswith("uniform")
            assert asked.learn == name.startswith("learned")
            assert all(fnmatch.filter(known, glob) for glob in arm.get("where", ()))
        elif "target" in arm:
            asked = taught.method(arm)
            assert name == f"time {asked.target.removeprefix('time:0')}", "of the whole network, as its row says"
            assert arm["threads"] == 2
        elif "width" in arm:
            assert isinstance(taught.method(arm), st.CFDP)


def test_an_unknown_arm_ends_the_program(taught, capsys):
    with pytest.raises(SystemExit):
        taught.asked(["everything"])
    assert len({taught.stem(name) for name in taught.ARMS}) == len(taught.ARMS)
    assert "no arm is called 'everything'. Known: measured .5" in capsys.readouterr().err


def test_crops_stay_in_the_range_of_the_network_and_are_the_same_for_a_seed(taught):
    images = torch.randint(0, 256, (6, 224, 224, 3), dtype=torch.uint8)
    one, same, other = (taught.drawn(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == (6, 3, 224, 224)
    assert one.abs().max() <= 1
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_some_crops_are_whole_pixels_of_the_image(taught):
    images = torch.randint(0, 256, (40, 224, 224, 3), dtype=torch.uint8)
    found = taught.drawn(images, torch.Generator().manual_seed(0))[:, 0, 100:110, 100:110]
    row = taught.prepared(images)[:, 0]
    exact = 0
    for crop, image in zip(found, row, strict=True):
        near = image[84:126, 84:126]
        windows = torch.cat(
            [each.unfold(0, 10, 1).unfold(1, 10, 1).reshape(-1, 10, 10) for each in (near, near.flip(1))]
        )
        exact += bool((windows - crop).abs().amax((1, 2)).min() < 1e-3)
    assert 2 <= exact <= 20


def test_every_place_comes_once_in_an_epoch(taught):
    queue = taught.places(10, 4, torch.device("cpu"), 0)
    drawn = torch.cat([next(queue) for _ in range(200)])
    assert all(sorted(part.tolist()) == [*range(10)] for part in drawn.split(10))


@pytest.mark.parametrize("arm", [{"keep": 0.5}, {"keep": 0.5, "learn": True, "rounds": 1}, {"side": 192}])
def test_a_lesson_moves_the_weights_towards_the_teacher(taught, arm):
    dense, images = Small().eval(), torch.randint(0, 256, (8, 224, 224, 3), dtype=torch.uint8)
    net = copy.deepcopy(dense)
    if "keep" in arm:
        method = st.PointwisePruning(pays="always", **arm)
        st.compress_(net, method, calibration=taught.prepared(images[:2]))
    nn.init.normal_(net.classifier[1].bias)
    lesson = taught.Lesson(net, dense, arm, taught.RECIPE | {"batch": 4, "lr": 1e-2}, torch.device("cpu"), "contiguous")
    generator = torch.Generator().manual_seed(0)
    before = [each.clone() for each in lesson.net.parameters()]
    taught.pace(lesson, images, generator, 1)
    assert all(map(torch.equal, before, lesson.net.parameters())), "the pace is measured before anything is learned"
    x = taught.prepared(images)
    with torch.no_grad():
        first = float(lesson.loss(x, 0)[0])
    how = taught.teach_(lesson, images[:6], images[6:], over=lambda step, _: step / 40, seed=0)
    assert (how["steps"], how["epochs"]) == (40, 26.67)
    assert how["trace"][-1]["progress"] == 1
    with torch.no_grad():
        assert float(lesson.loss(x, 0)[0]) < 0.7 * first


def test_a_network_that_has_left_the_numbers_goes_back(taught):
    dense, images = Small().eval(), torch.randint(0, 256, (6, 224, 224, 3), dtype=torch.uint8)
    recipe = taught.RECIPE | {"batch": 2}
    lesson = taught.Lesson(copy.deepcopy(dense), dense, {"width": 0.5}, recipe, torch.device("cpu"), "channels_last")

    def over(step, _):
        if step == 22:
            lesson.net.classifier[1].bias.data.fill_(torch.nan)
        return step / 45

    how = taught.teach_(lesson, images[:4], images[4:], over=over, seed=0)
    assert how["gone_back"] == 1
    assert taught.finite(lesson.net)
    assert [group["top"] for group in lesson.optimizer.param_groups] == [recipe["lr"] / 2]


def document():
    def row(name, **more):
        taught = {
            "epochs": 123.4, "trained_seconds": 130.2, "images": 950, "commit": "abc",
            "hardware": {"cpu": "a processor", "accelerator": "a device"}, "versions": {"torch": "2.11"},
        }  # fmt: skip
        return {"name": name, "taught": taught, "macs": [200_000_000, 100_000_000, 10_000_000], "top1": 79.0, "points": -0.69,
                "interval": [-1.5, 0.1], "agreement": 95.0, "commit": "def"} | more  # fmt: skip

    times = [{"name": "one", "batch": 8, "threads": 2, "time": 0.75, "paired": 0.76, "commit": "fed"}]
    facts = {"hardware": {"cpu": "another"}, "versions": {"torch": "2.13"}, "images": 1300}
    return {"rows": [row("one"), row("two")], "times": times} | facts


def test_the_table_says_where_it_was_trained_and_where_it_ran(judge):
    rows = judge.table(document()).splitlines()
    assert "time, batch 8, 2 threads" in rows[0]
    assert [row.split(" | ")[0] for row in rows[2:4]] == ["| dense", "| dense, fused"]
    assert rows[4] == "| one | 123 | 0.668 | 0.701 | 0.75 / 0.76 | 79.00 | -0.69 (-1.50 to +0.10) | 95.0 |"
    assert "| – |" in rows[5]
    assert "on one a device, shared with others, 130 to 130 seconds each, torch 2.11, commit abc;" in rows[-1]
    assert "commits def and fed." in rows[-1]


# -- the kernels in Triton --------------------------------------------------------------------------------------------


def test_what_fails_on_a_device_is_a_row_and_the_next_one_comes(taught, tmp_path, monkeypatch):
    program = importlib.import_module("pointwise_triton")
    chosen = program.asked(
        ["--device", "cpu", "--most", "1", "--fill", "0", "--out", str(tmp_path / "deep" / "out.json")]
    )
    bench = program.Bench(chosen)
    bench.layer((4, 6, 14), 2, "float32", 0.5)
    monkeypatch.setitem(program.WITHIN, "float32", 0.0)
    bench.layer((4, 6, 14), 1, "float32", 0.5)
    bench.tilings((4, 6), 1, "float32")
    assert [*bench.rows[0]["ms"]] == ["dense", "plain"]
    assert bench.rows[1]["failed"].startswith("the outputs differ by ")
    assert bench.rows[2]["failed"].startswith("ValueError: not enough values")
    monkeypatch.setattr(chosen, "seconds", -1)
    bench.layer((4, 6, 14), 2, "float16", 0.5)
    assert bench.left == ["layers, [4, 6, 14], 2, float16, 0.5"]
    facts = {"hardware": {"accelerator": "a device", "cpu": "a processor"}, "versions": {"torch": "2"}, "commit": None}
    rows = program.table({"rows": bench.rows, "left_out": bench.left, **facts}).splitlines()
    assert rows[3] == "| layer | 1 image, float32, keep 0.5 | 2 images, float32, keep 0.5 |"
    assert rows[5].startswith("| 4 → 6 @ 14 | failed | ")
    assert rows[-1].startswith("a device, torch 2, commit None; ")


def test_a_graph_holds_what_it_reads(taught, monkeypatch):
    program = importlib.import_module("pointwise_triton")
    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    weight = torch.ones(3)
    held = weakref.ref(weight)
    call = program.graphed(lambda weight=weight: weight + 1)
    del weight
    gc.collect()
    assert held() is not None, "its memory would be given to others while the graph reads it"
    assert call().tolist() == [2, 2, 2]
