"""CFDP under a budget: what is left is what was asked for, counted on networks that are really cut."""

import copy
import itertools
import math

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as strategy
from torch import nn

import spectrim as st
from spectrim.budget import Target
from spectrim.measure import Comparison, Latency, macs, parameters
from spectrim.methods import cfdp_budget
from spectrim.methods.cfdp import CFDP
from spectrim.methods.cfdp_budget import Descent
from spectrim.methods.cfdp_widths import Ladder, widths
from spectrim.surgery.channels import Group
from spectrim.zoo.resnet_cifar import resnet20
from spectrim.zoo.vgg import vgg16_bn

NETWORKS = {
    "resnet20": (resnet20, 32, "linear"),
    "vgg16_bn": (vgg16_bn, 32, "classifier.3"),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 64, "classifier.1"),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 64, "fc"),
}
COUNT = {"macs": lambda model, x: macs(model, x[:1]), "params": lambda model, _: parameters(model)}


def network(name):
    make, side, head = NETWORKS[name]
    torch.manual_seed(0)
    return make().eval(), torch.rand(4, 3, side, side), head


def net():
    """Two groups of 16 and 32, and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip


IMAGES = torch.rand(8, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return list(before) == list(model.state_dict()) and all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )


def kept(plan):
    """How many channels stay in each group that is cut."""
    return {edit.path: edit.width - len(edit.channels) for edit in plan.edits}


# -- the promise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_what_was_asked_for_is_left_and_the_plan_says_how_much(name, quantity):
    model, images, head = network(name)
    dense, before = COUNT[quantity](model, images), state(model)
    previous = None
    for fraction in (0.6, 0.3):
        plan = st.plan(model, CFDP(target=f"{quantity}:{fraction}", score="l2"), calibration=images)
        assert unchanged(model, before)
        small = plan.apply_(copy.deepcopy(model))
        left = COUNT[quantity](small, images)
        assert left <= fraction * dense
        assert left > (fraction - 0.08) * dense, "a step of a group is a few percent at most"
        assert plan.after == parameters(small)
        assert (plan.budget.dense, plan.budget.left) == (dense, left)
        assert f"; {quantity} {left / dense:.3f} of dense, asked {fraction}" in str(plan).splitlines()[0]
        assert st.Plan.from_json(plan.to_json()) == plan
        for edit in plan.edits:
            assert (edit.width - len(edit.channels)) % 8 == 0
            assert edit.width - len(edit.channels) >= max(8, edit.width / 10)
        assert head not in kept(plan)
        assert "is the output of the model" in {row.site: row.reason for row in plan.skipped}[head]
        assert small(images).shape == model(images).shape
        if previous is not None:  # a smaller target never leaves a group wider
            assert all(kept(plan).get(path, math.inf) <= width for path, width in previous.items())
        previous = kept(plan)


def test_absolute_numbers_are_met():
    model, images, _ = network("resnet20")
    for target, count in (("params:100000", "params"), ("macs:15e6", "macs")):
        plan = st.plan(model, CFDP(target=target, score="l2"), calibration=images)
        left = COUNT[count](plan.apply_(copy.deepcopy(model)), images)
        assert 0.9 * float(target.partition(":")[2]) < left <= float(target.partition(":")[2])
        assert left == plan.budget.left
    assert f"macs {left:,} of 40,551,040, asked 15,000,000" in str(plan)


@pytest.mark.parametrize("target", ["macs:1", "params:1e9"])
def test_a_budget_that_is_met_already_changes_nothing(target):
    plan = st.plan(net(), CFDP(target=target), calibration=IMAGES)
    assert plan.edits == ()
    assert f"target={target} leaves all of its 16 channels" in str(plan)
    assert plan.before == plan.after


def test_the_plan_says_what_each_group_saves():
    model = net()
    plan = st.plan(model, CFDP(target="macs:0.5", round_to=1), calibration=IMAGES)
    for edit in plan.edits:
        small = st.Plan("", "", (edit,)).apply_(copy.deepcopy(model))
        saved = parameters(model) - parameters(small), macs(model, IMAGES[:1]) - macs(small, IMAGES[:1])
        assert edit.note.startswith("ortho scores below ")
        assert edit.note.endswith("; saves {:,} parameters and {:,} MACs".format(*saved))


def test_it_stops_as_soon_as_the_budget_is_met():
    model, images, _ = network("resnet20")
    plan = st.plan(model, CFDP(target="macs:0.4", score="l2"), calibration=images)
    budget = st.plan(model, CFDP(target=f"macs:{plan.budget.left}", score="l2"), calibration=images).budget
    assert budget.left == plan.budget.left
    wider = st.plan(model, CFDP(target=f"macs:{plan.budget.left + 1}", score="l2"), calibration=images)
    assert wider.edits == plan.edits
    narrower = st.plan(model, CFDP(target=f"macs:{plan.budget.left - 1}", score="l2"), calibration=images)
    changed = [path for path, width in kept(narrower).items() if kept(plan).get(path) != width]
    assert len(changed) == 1, "one step further is one group"


# -- the ranking ------------------------------------------------------------------------------------------------------


def group(path, units, width=None, locked=0):
    axis = (f"{path}.weight", 0)
    return Group(path, axis, (path,), width or units, tuple({axis: (u,)} for u in range(units)), (), (locked, "x" * bool(locked)))  # fmt: skip


@pytest.mark.parametrize(
    ("units", "locked", "least", "round_to", "expected"),
    [
        (32, 0, 0.1, 8, (32, 24, 16, 8)),
        (13, 0, 0.1, 8, (13, 8)),
        (8, 0, 0.1, 8, (8,)),
        (4, 0, 0.1, 8, (4,)),
        (64, 0, 0.5, 16, (64, 48, 32)),
        (64, 0, 0.51, 16, (64, 48)),
        (10, 0, 0.1, 1, (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)),
        (10, 0, 0.7, 1, (10, 9, 8, 7)),
        (3, 0, 0.0, 1, (3, 2, 1)),
        (6, 4, 0.1, 8, (6, 4)),
        (1, 0, 0.0, 1, (1,)),
        (5, 0, 1.0, 1, (5,)),
    ],
)
def test_which_widths_a_group_may_have(units, locked, least, round_to, expected):
    assert widths(group("g", units, units + locked, locked), least, round_to) == expected


def test_groups_of_whole_groups_are_counted_in_channels():
    assert widths(group("g", 6, 24), 0.1, 8) == (6, 4, 2)


numbers = strategy.floats(0, 1e6)


@settings(deadline=None, max_examples=60)
@given(
    strategy.lists(strategy.lists(numbers, min_size=2, max_size=40), min_size=1, max_size=6),
    strategy.sampled_from([1, 3, 8]),
)
def test_all_groups_go_down_one_line_of_networks(values, round_to):
    ladders = []
    for place, scores in enumerate(values):
        one = group(str(place), len(scores))
        ladders.append(Ladder.of(one, torch.tensor(scores, dtype=torch.float64), widths(one, 0.1, round_to)))
    descent = Descent.of(ladders)
    assert len(descent.steps) == sum(len(each.rungs) - 1 for each in ladders)
    every = [list(descent.kept(number).values()) for number in range(len(descent.steps) + 1)]
    assert every[0] == [len(scores) for scores in values]
    assert every[-1] == [each.rungs[-1] for each in ladders]
    for wider, narrower in itertools.pairwise(every):
        assert sum(a != b for a, b in zip(wider, narrower, strict=True)) == 1
        assert all(a >= b for a, b in zip(wider, narrower, strict=True))
    for number, units in enumerate(every):
        gone = descent.gone(number)
        assert [gone[f"{place}.weight"][0] for place in range(len(values))] == [
            len(scores) - left for scores, left in zip(values, units, strict=True)
        ]


def test_scores_are_compared_relative_to_the_mean_of_their_group():
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    small, large = group("small", 4), group("large", 4)
    ladders = [Ladder.of(small, scores, (4, 3, 2, 1)), Ladder.of(large, 1000 * scores, (4, 3, 2, 1))]
    torch.testing.assert_close(ladders[0].prices(), ladders[1].prices())
    assert ladders[0].prices() == pytest.approx([0.4, 0.8, 1.2])
    assert Descent.of(ladders).steps == ((0, 3), (1, 3), (0, 2), (1, 2), (0, 1), (1, 1))
    flat = Ladder.of(large, torch.tensor([9.0, 10.0, 11.0, 10.0], dtype=torch.float64), (4, 3, 2, 1))
    assert Descent.of([ladders[0], flat]).steps[:3] == ((0, 3), (0, 2), (1, 3))
    assert flat.order == (0, 1, 3, 2)


def test_channels_that_say_nothing_go_first():
    model = net()
    with torch.no_grad():
        model[2].bias[:] = 1
        model[2].weight[8:24] = 0
        model[2].bias[8:24] = -1
    plan = st.plan(model, CFDP(target="params:0.55"), calibration=IMAGES)
    (edit,) = plan.edits
    assert (edit.path, edit.channels) == ("2", tuple(range(8, 24)))
    torch.testing.assert_close(plan.apply_(copy.deepcopy(model))(IMAGES), model(IMAGES))


# -- what may be cut --------------------------------------------------------------------------------------------------


def test_where_narrows_the_choice_and_the_reachable_range_says_so():
    model, images, _ = network("resnet20")
    before = state(model)
    where = ["layer3.*"]
    with pytest.raises(ValueError, match=r"target params:0\.1 is below what can be reached, 0\.\d+ of dense") as caught:
        st.compress_(model, CFDP(target="params:0.1", score="l2"), where=where, calibration=images)
    assert unchanged(model, before)
    said = str(caught.value)
    assert "with every group at its least width" in said
    assert "a wider where, a smaller round_to or least" in said
    reachable = said.partition("Ask for ")[2].partition(" ")[0]
    assert 0.2 < Target.parse(reachable).amount < 0.6
    plan = st.plan(model, CFDP(target=reachable, score="l2"), where=where, calibration=images)
    assert all(path.startswith("layer3.") for path in kept(plan))
    assert all("; at its least width; " in edit.note for edit in plan.edits)
    assert parameters(plan.apply_(model)) <= Target.parse(reachable).amount * plan.before
    wide = st.plan(network("resnet20")[0], CFDP(target=reachable, score="l2"), calibration=images)
    assert any(not path.startswith("layer3.") for path in kept(wide))


@pytest.mark.parametrize("options", [{"least": 0.0}, {"round_to": 1}])
def test_lower_floors_reach_further(options):
    model, images, _ = network("resnet20")
    if "least" in options:
        options |= {"round_to": 1}
        out_of_reach = CFDP(target="macs:0.01", score="l2", round_to=1)
    else:
        out_of_reach = CFDP(target="macs:0.1", score="l2")
    with pytest.raises(ValueError, match="is below what can be reached"):
        st.plan(model, out_of_reach, calibration=images)
    target = "macs:0.01" if "least" in options else "macs:0.1"
    plan = st.plan(model, CFDP(target=target, score="l2", **options), calibration=images)
    assert macs(plan.apply_(model), images[:1]) == plan.budget.left <= Target.parse(target).amount * plan.budget.dense


def test_a_model_of_which_nothing_can_go_says_so():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(
        ValueError, match=r"asked for target macs:0\.5, found no group .* CFDP\(keep=0\.5\) without one says why"
    ):
        st.compress_(model, CFDP(target="macs:0.5"), calibration=IMAGES)


def test_a_group_without_a_smaller_width_is_named():
    plan = st.plan(net(), CFDP(target="macs:0.9", round_to=16), calibration=IMAGES)
    assert "0  skipped: has 16 channels, and no smaller width that round_to=16 and least=0.1 allow" in str(plan)
    assert [edit.path for edit in plan.edits] == ["2"]


def test_the_budget_is_met_without_the_groups_that_the_forward_does_not_follow():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 2, 1)

        def forward(self, x):
            x = self.one(x).relu().view(-1, 32, *x.shape[2:])
            return self.out(self.two(x).relu())

    torch.manual_seed(0)
    model = Fixed()
    plan = st.plan(model, CFDP(target="macs:0.6"), calibration=IMAGES)
    assert [edit.path for edit in plan.edits] == ["two"]
    assert "one  skipped: the forward has sizes of its own and fails" in str(plan)
    assert macs(plan.apply_(model), IMAGES[:1]) == plan.budget.left <= 0.6 * plan.budget.dense


def test_where_cuts_narrow_more_than_layers_every_network_is_counted():
    class Mixer(nn.Module):
        """A linear layer over the pixels has a position for each channel."""

        def __init__(self):
            super().__init__()
            self.one, self.over, self.out = nn.Conv2d(3, 32, 1), nn.Linear(100, 100), nn.Conv2d(32, 2, 1)

        def forward(self, x):
            return self.out(self.over(self.one(x).flatten(2)).relu().unflatten(2, x.shape[2:]))

    torch.manual_seed(0)
    model = Mixer().eval()
    plan = st.plan(model, CFDP(target="macs:0.5"), calibration=IMAGES)
    assert kept(plan) == {"one": 16}
    assert plan.edits[0].note.endswith(f" and {macs(model, IMAGES[:1]) // 2:,} MACs")
    assert macs(plan.apply_(model), IMAGES[:1]) == plan.budget.left <= 0.5 * plan.budget.dense


def test_attention_that_loses_heads_meets_a_budget():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, depth=2).eval()
    images = torch.rand(2, 3, 32, 32)
    plan = st.plan(model, CFDP(target="macs:0.5", score="random"), calibration=images)
    assert kept(plan)["blocks.0.attn.qkv"] in {3 * 64, 3 * 128}
    small = plan.apply_(copy.deepcopy(model))
    assert macs(small, images[:1]) == plan.budget.left <= 0.7 * plan.budget.dense
    for edit in plan.edits:
        one = st.Plan("", "", (edit,)).apply_(copy.deepcopy(model))
        assert edit.note.endswith(f" and {macs(model, images[:1]) - macs(one, images[:1]):,} MACs")


def test_a_forward_that_reads_values_can_be_given_parameters_but_not_operations():
    class Reads(nn.Sequential):
        def forward(self, x):
            return super().forward(x if float(x.sum()) > 0 else -x)

    model = Reads(*net())
    plan = st.plan(model, CFDP(target="params:0.6"), calibration=IMAGES)
    assert plan.edits[0].note.endswith(" parameters")
    assert parameters(plan.apply_(copy.deepcopy(model))) == plan.budget.left <= 0.6 * plan.before
    assert st.plan(model, CFDP(keep=0.5), calibration=IMAGES).edits
    with pytest.raises(st.UnsupportedError, match="a forward that reads values cannot be counted"):
        st.plan(model, CFDP(target="macs:0.6"), calibration=IMAGES)


# -- time -------------------------------------------------------------------------------------------------------------


def clock(monkeypatch, milliseconds):
    """In place of the clock: a function of the multiply-accumulates and the rounds. The calls are counted."""
    calls = []

    def paired(models, x, *, rounds):
        calls.append(rounds)
        times = {name: milliseconds(macs(model, x), rounds) for name, model in models.items()}
        return Comparison({
            name: Latency(rounds_ms=(each,) * rounds, repeats=1, threads=1, device="cpu") for name, each in times.items()
        })  # fmt: skip

    monkeypatch.setattr(cfdp_budget, "paired_latency", paired)
    return calls


def test_time_is_searched_for_with_few_measurements(monkeypatch):
    calls = clock(monkeypatch, lambda operations, _: operations / 1e6)
    model, images, _ = network("resnet20")
    plan = st.plan(model, CFDP(target="latency:0.5", score="l2", round_to=1), calibration=images)
    counted = st.plan(model, CFDP(target="macs:0.5", score="l2", round_to=1), calibration=images)
    assert plan.edits == counted.edits, "where time is operations, both stop at the same network"
    assert plan.budget.left == pytest.approx(counted.budget.fraction)
    assert len(calls) < 15
    assert "latency 0.4" in str(plan)
    assert ", asked 0.5 (40.6 → 20." in str(plan)
    assert "ms, 1 thread on cpu, 25 rounds)" in str(plan)


def test_a_time_that_does_not_stand_up_is_not_believed(monkeypatch):
    calls = clock(
        monkeypatch, lambda operations, rounds: operations / 1e6 * (1 if rounds > 10 or operations > 4e7 else 0.8)
    )
    model, images, _ = network("resnet20")
    plan = st.plan(model, CFDP(target="latency:0.5", score="l2"), calibration=images)
    small = plan.apply_(copy.deepcopy(model))
    assert macs(small, images[:1]) / macs(model, images[:1]) == pytest.approx(plan.budget.left)
    assert plan.budget.left <= 0.5
    assert calls.count(25) > 2, "measured again, a little further down, until it holds"


def test_a_time_out_of_reach_is_said_with_what_was_measured(monkeypatch):
    clock(monkeypatch, lambda operations, _: 10.0 + operations / 1e6)
    model, images, _ = network("resnet20")
    before = state(model)
    with pytest.raises(
        ValueError, match=r"target latency:0\.2 is below what can be reached, 0\.\d+ of dense .*50\.6 → 14\.9 ms"
    ):
        st.compress_(model, CFDP(target="latency:0.2", score="l2"), calibration=images)
    assert unchanged(model, before)


def test_all_the_time_there_is_is_not_measured(monkeypatch):
    calls = clock(monkeypatch, lambda *_: 1.0)
    assert st.plan(net(), CFDP(target="latency:1"), calibration=IMAGES).edits == ()
    assert calls == []


def test_a_network_takes_the_time_that_its_plan_says():
    model, images, _ = network("vgg16_bn")
    training = model.train()
    plan = st.plan(training, CFDP(target="latency:0.6", score="l2"), calibration=images)
    assert plan.budget.left <= 0.6
    assert training.training
    assert macs(plan.apply_(copy.deepcopy(model)), images[:1]) < 0.9 * macs(model, images[:1])


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "half"}, "target must be QUANTITY:NUMBER with one of macs, params, latency"),
        ({"target": "bytes:0.5"}, "which is about 'bytes'"),
        ({"target": 0.5}, r"got 0\.5"),
        ({"target": "macs:1.5"}, r"a target of macs is a fraction in \(0, 1\] or a number above 100, got '1\.5'"),
        ({"target": "macs:0.5", "keep": 0.5}, r"give one of them, got keep=0\.5 and target='macs:0\.5'"),
        ({"target": "macs:0.5", "least": 1.1}, r"least must lie in \[0, 1\], got 1\.1"),
        ({"least": -0.1}, r"least must lie in \[0, 1\], got -0\.1"),
        ({"least": "a"}, r"least must be a number in \[0, 1\], got 'a'"),
    ],
)
def test_bad_hyperparameters_are_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CFDP(**arguments)


def test_a_method_prints_as_it_is_written():
    assert repr(CFDP()) == repr(CFDP(keep=0.5)) == "CFDP(keep=0.5)"
    assert repr(CFDP(target="macs:0.5", score="l2")) == "CFDP(target='macs:0.5', score='l2')"
    assert eval(repr(CFDP(target="macs:0.5", least=0.2))) == CFDP(target="macs:0.5", least=0.2)  # noqa: S307 - our own


def in_rounds_(model, method, count):
    for each in method.in_rounds(model, count, calibration=IMAGES):
        st.compress_(model, each, calibration=IMAGES)


@pytest.mark.parametrize(
    ("keep", "round_to", "message"),
    [
        (
            1e-6,
            8,
            r"keep=1e-06 leaves none of the 16 channels of '0', and of 1 other groups\. Ask for keep=0\.063 or more",
        ),
        (1e-6, 1, r"keep=1e-06 leaves none of the 16 channels of '0'"),
        (
            0.04,
            1,
            r"keep=0\.04 leaves none of the 16 channels of '0'\. .* keep=\{'0': 0\.063, '\*': 0\.04\}.*where='!0'",
        ),
        ({"2": 0.03, "*": 0.5}, 1, r"keep=0\.03 leaves none of the 32 channels of '2'\. Ask for keep=0\.032"),
    ],
)
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_layer_that_would_vanish_is_named_before_anything_is_cut(keep, round_to, message, rounds):
    model = net().train()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        in_rounds_(model, CFDP(keep=keep, round_to=round_to), rounds)
    assert unchanged(model, before)
    assert all(module.training for module in model.modules())


def test_what_the_error_proposes_works():
    for arguments in ({"keep": 0.063}, {"keep": {"0": 0.063, "*": 0.04}}):
        assert kept(st.plan(net(), CFDP(round_to=1, **arguments), calibration=IMAGES))["0"] == 1
    plan = st.plan(net(), CFDP(keep=0.04, round_to=1), where="!0", calibration=IMAGES)
    assert kept(plan) == {"2": 1}
    rounds = CFDP(keep=0.04, round_to=1).in_rounds(net(), 2, where="!0", calibration=IMAGES)
    assert [method.keep for method in rounds] == pytest.approx([0.2, 0.04])


def test_a_narrow_layer_that_stays_whole_is_no_reason_to_refuse():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 64, 1), nn.ReLU(), nn.Conv2d(64, 2, 1))
    plan = st.plan(model, CFDP(keep=0.1), calibration=IMAGES)
    assert kept(plan) == {"2": 8}
    assert "0  skipped: keep=0.1 leaves all of its 4 channels" in str(plan)
