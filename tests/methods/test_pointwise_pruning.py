"""Pointwise pruning: which convolutions it cuts, how bands meet a budget, and why the others are left alone."""

import copy
import itertools

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import spectrim as st
from spectrim import measure
from spectrim.methods import pointwise_cuttable
from spectrim.methods.spectra import read_spectra
from spectrim.nn import BandedPointwiseConv2d, GroupedBandsConv2d, cut_offs
from spectrim.surgery import coded
from spectrim.surgery.linearity import streams


def images(count=4, channels=3, size=16, seed=0):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 1), nn.ReLU(), nn.Conv2d(48, 32, 1, stride=2)
    ).eval()


def kept_share(plan):
    """The share of the multiplications that stays in what is cut, from what the plan says."""
    macs = [edit.spec["macs"] for edit in plan.edits]
    return sum(kept for _, kept, _ in macs) / sum(dense for dense, _, _ in macs)


@pytest.mark.parametrize("keep", [1.0, 0.7, 0.3, 0.1])
@pytest.mark.parametrize("levels", [1, 4, 64])
def test_what_is_kept_is_what_was_asked_for(keep, levels):
    plan = st.plan(network(), st.PointwisePruning(keep=keep, levels=levels, pays="always"), calibration=images())
    assert len(plan.edits) == 2
    assert kept_share(plan) <= keep
    if levels == 64:
        assert kept_share(plan) > keep - 0.02, "it could have kept more"
    for edit in plan.edits:
        assert len(set(edit.spec["kept"])) <= levels


def test_bands_fall_with_keep():
    plans = [
        st.plan(network(), st.PointwisePruning(keep=k, levels=64, pays="always"), calibration=images())
        for k in (0.7, 0.4, 0.2)
    ]
    for more, less in itertools.pairwise(plans):
        for one, other in zip(more.edits, less.edits, strict=True):
            assert all(a >= b for a, b in zip(one.spec["kept"], other.spec["kept"], strict=True))


@pytest.mark.parametrize("score", ["output", "energy"])
def test_a_channel_keeps_more_where_it_says_more_at_high_frequencies(score):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 16, 16, generator=generator)
    x[:, 1] = F.avg_pool2d(x[:, 1:2], 8).repeat_interleave(8, 2).repeat_interleave(8, 3)[:, 0]  # block means alone
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    nn.init.ones_(model[0].weight)
    with torch.no_grad():
        model[0].weight[:, 2] = 1e-4  # hardly read
    method = st.PointwisePruning(keep=0.5, score=score, levels=64, pays="always")
    kept = st.plan(model, method, calibration=x).edits[0].spec["kept"]
    assert kept[0] > 32
    assert kept[1] == 1
    assert kept[2] < kept[0]


def test_the_output_moves_by_the_energy_that_the_calibration_saw():
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1)), images(size=32)
    expected = model(x)
    errors = []
    for keep in (0.9, 0.5, 0.1):
        pruned = st.compress_(
            nn.Sequential(nn.Conv2d(3, 8, 1)), st.PointwisePruning(keep=keep, pays="always"), calibration=x
        )
        pruned[0].weight, pruned[0].bias = model[0].weight, model[0].bias
        errors.append((pruned(x) - expected).square().mean().item())
    assert 0 < errors[0] < errors[1] < errors[2] < expected.var().item()


@pytest.mark.parametrize("target", ["macs:0.9", "macs:0.8", "macs:400000"])
def test_the_whole_network_meets_its_target_transforms_included(target):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 1)).eval()
    plan = st.plan(model, st.PointwisePruning(target=target), calibration=images(size=10))
    dense = 64 * (27 * 32 + 32 * 64 + 64 * 64)
    assert plan.budget.dense == dense
    asked = float(target.partition(":")[2])
    assert plan.budget.left <= (asked * dense if asked <= 1 else asked)
    assert plan.budget.left >= (asked * dense if asked <= 1 else asked) - 0.03 * dense, "it cut more than it had to"
    saved = sum(before - kept - transforms for before, kept, transforms in (edit.spec["macs"] for edit in plan.edits))
    assert plan.budget.left == dense - saved
    cut = plan.apply_(copy.deepcopy(model))
    assert measure.macs(cut, images(1, size=10)) == plan.budget.left
    assert measure.macs(st.finalize_(cut), images(1, size=10)) == plan.budget.left
    assert st.Plan.from_json(plan.to_json()) == plan


def test_a_layer_is_left_alone_where_transforms_cost_more_than_the_cut_saves():
    plan = st.plan(network(), st.PointwisePruning(keep=0.97), calibration=images())
    assert plan.edits == ()
    assert {row.reason for row in plan.skipped} == {"transforms would cost more multiplications than the cut saves"}
    assert len(st.plan(network(), st.PointwisePruning(keep=0.04), calibration=images()).edits) == 2


def test_the_counts_are_those_of_mobilenet_v2():
    model = torchvision.models.mobilenet_v2().eval()
    x = images(1, size=224)
    plan = st.plan(model, st.PointwisePruning(keep=1.0, block=7, pays="always"), calibration=x)
    assert len(plan.edits) == 34
    assert sum(edit.spec["macs"][0] for edit in plan.edits) == 267_939_840
    assert round(sum(edit.spec["macs"][2] for edit in plan.edits) / 1e6, 1) == 95.9
    assert {edit.spec["macs"][1] for edit in plan.edits} == {edit.spec["macs"][0] for edit in plan.edits}
    costs = {edit.path: (edit.spec["macs"][0], edit.spec["macs"][2]) for edit in plan.edits}

    def kept_for(left, *, selective):
        """The share of every layer's coefficients at which the network multiplies so much, with the transforms."""

        def total(share):
            cut = [(share * dense + transforms, dense) for dense, transforms in costs.values()]
            return 300_774_272 - 267_939_840 + sum(min(each) if selective else each[0] for each in cut)

        low, high = 0.3, 1.0  # so much that the transforms are whole
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if total(middle) > left * 300_774_272 else (middle, high)
        return round(low, 3)

    assert kept_for(0.78, selective=False) == 0.395
    assert kept_for(0.78, selective=True) == 0.474
    inside = {edit.path: edit.spec["in"] / (edit.spec["in"] + edit.spec["out"]) for edit in plan.edits}
    chained = streams(model, [x])
    saved = sum(costs[path][1] * (1 - inside[path]) for stream in chained for path in stream.writers)
    saved += sum(costs[path][1] * inside[path] for stream in chained for path in stream.readers)
    assert round((sum(transforms for _, transforms in costs.values()) - saved) / 1e6, 1) == 79.9
    target = st.plan(model, st.PointwisePruning(target="macs:0.9", block=7), calibration=x)
    assert target.budget.dense == 300_774_272
    assert target.budget.left <= 0.9 * 300_774_272
    names = {edit.path for edit in target.edits}
    assert "features.1.conv.1" not in names, "at 112 x 112 no cut pays for its transforms"
    assert "features.2.conv.0.0" not in names


def test_blocks_divide_the_map_where_they_can():
    for size, block in ((16, [8, 8]), (14, [7, 7]), (13, [8, 8]), (12, [6, 6])):
        plan = st.plan(
            nn.Sequential(nn.Conv2d(3, 4, 1)), st.PointwisePruning(pays="always"), calibration=images(size=size)
        )
        assert plan.edits[0].spec["block"] == block
    fixed = st.PointwisePruning(block=4, pays="always")
    assert st.plan(network(), fixed, calibration=images()).edits[0].spec["block"] == [4, 4]
    whole = st.PointwisePruning(block="map", pays="always")
    assert [e.spec["block"] for e in st.plan(network(), whole, calibration=images()).edits] == [[16, 16], [8, 8]]


def test_the_order_of_energy_is_that_of_the_layer():
    x = torch.zeros(2, 1, 4, 4)
    x[:] = torch.cos(torch.pi * (torch.arange(4) + 0.5) * 3 / 4)[:, None]  # one frequency, (3, 0)
    method = st.PointwisePruning(keep=0.2, block=4, order="energy", pays="always")
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    plan = st.plan(model, method, calibration=x)
    assert plan.edits[0].spec["order"][:2] == [0, 12]
    assert plan.edits[0].spec["kept"][0] in (2, 3), "what rounding left may pay for a third"
    expected = model(x)
    torch.testing.assert_close(plan.apply_(model)(x), expected, atol=1e-6, rtol=1e-6)


class Same(nn.Conv2d):
    """Pads as TensorFlow does, which for a 1x1 kernel is not at all."""

    def forward(self, x):
        extra = max(0, self.kernel_size[0] - 1)
        return F.conv2d(F.pad(x, (0, extra, 0, extra)), self.weight, self.bias, self.stride)


class Standardized(nn.Conv2d):
    """Reads its weight in another way."""

    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Everything(nn.Module):
    """One of each convolution that is left alone, and one that is not."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 1)
        self.same = Same(4, 4, 1)
        self.standardized = Standardized(4, 4, 1)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.padded = nn.Conv2d(4, 4, 1, padding=1)
        self.idle = nn.Conv2d(4, 4, 1)
        self.shared = nn.Conv2d(4, 4, 1)
        self.squeezed = nn.Conv2d(4, 4, 1)
        self.spatial = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.padded(self.grouped(self.standardized(self.same(self.plain(x)))))
        x = self.shared(self.spatial(self.shared(x)))
        return self.squeezed(x.mean((2, 3), keepdim=True))


def test_every_convolution_that_is_left_alone_has_its_reason():
    model = Everything().eval()
    plan = st.plan(model, st.PointwisePruning(pays="always"), calibration=images())
    assert [edit.path for edit in plan.edits] == ["plain", "same"]
    assert {row.site: row.reason for row in plan.skipped} == {
        "standardized": "is a Standardized, which does not compute what a plain convolution does",
        "grouped": "has 2 groups",
        "padded": "pads its input by (1, 1)",
        "idle": "is not called as a layer",
        "shared": "reads maps of 18 x 18 and of 16 x 16",
        "squeezed": "its maps are 1 x 1",
    }
    expected = model(images())
    whole = st.compress_(model, st.PointwisePruning(keep=1.0, pays="always"), calibration=images())
    torch.testing.assert_close(whole(images()), expected)
    assert isinstance(model.same, BandedPointwiseConv2d)


def test_where_and_keep_choose_layers():
    plan = st.plan(network(), st.PointwisePruning(pays="always"), where="2", calibration=images())
    assert [edit.path for edit in plan.edits] == ["2"]
    assert plan.skipped[0].reason == "left dense by where"
    plan = st.plan(network(), st.PointwisePruning(keep={"2": 0.3}, pays="always"), calibration=images())
    assert [edit.path for edit in plan.edits] == ["2"]
    assert plan.skipped[0].reason == "no pattern of keep matches"
    both = st.PointwisePruning(keep={"2": 0.3, "*": 0.7}, pays="always")
    shares = [
        edit.spec["macs"][1] / edit.spec["macs"][0] for edit in st.plan(network(), both, calibration=images()).edits
    ]
    assert shares[0] <= 0.3 < shares[1] <= 0.7


def test_what_is_swapped_is_not_swapped_again():
    model = st.compress_(network(), st.PointwisePruning(pays="always"), where="2", calibration=images())
    with pytest.raises(st.OrderError, match=r"1 of those asked for are already swapped \(first: '2'\)"):
        st.plan(model, st.PointwisePruning(), calibration=images())
    plan = st.plan(model, st.PointwisePruning(pays="always"), where="4", calibration=images())
    assert [edit.path for edit in plan.edits] == ["4"]
    assert [(row.site, row.reason) for row in plan.skipped] == [("2", "already swapped")]


def test_the_model_itself_cannot_be_swapped():
    plan = st.plan(nn.Conv2d(3, 4, 1), st.PointwisePruning(), calibration=images())
    assert plan.edits == ()
    assert plan.skipped[0].reason == "is the model itself; wrap it in nn.Sequential"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, r"keep must lie in \(0, 1\]"),
        ({"keep": 40}, r"For 40 percent, pass keep=0\.4"),
        ({"target": "params:0.5"}, "target must be QUANTITY:NUMBER with one of macs"),
        ({"block": 0}, "block must be"),
        ({"order": "spiral"}, "order must be one of zigzag, radial, square, energy"),
        ({"score": "taste"}, "score must be 'measured', 'output' or 'energy', got 'taste'"),
        ({"levels": 0}, "levels must be"),
        ({"strength": -1.0}, "strength must be"),
        ({"rounds": -1}, "rounds must be"),
        ({"weigh": "money"}, "weigh must be"),
        ({"pays": "maybe"}, "pays must be 'macs', 'time' or 'always', got 'maybe'"),
        ({"pays": "time", "target": "macs:0.5"}, "a target says itself which layers pay"),
        ({"keep": {"*": 0.5}, "learn": True}, "one keep for all layers"),
        ({"tie": "block"}, "tie must be 'stage' or None"),
        ({"tie": "stage", "order": "energy"}, "tied layers share one order"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        st.PointwisePruning(**settings)


def test_a_keep_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="keep must be a number"):
        st.PointwisePruning(keep="half")


def test_keep_beside_a_target_is_refused_and_is_not_told_of_a_method_with_one():
    with pytest.raises(ValueError, match=r"exclude each other, got keep=0\.3 and target='macs:0\.8'\. Give one"):
        st.PointwisePruning(keep=0.3, target="macs:0.8")
    assert (st.PointwisePruning().keep, st.PointwisePruning(target="macs:0.8").keep) == (0.5, None)
    assert repr(st.PointwisePruning(target="macs:0.8")) == "PointwisePruning(target='macs:0.8')"
    assert repr(st.PointwisePruning()) == "PointwisePruning(keep=0.5)"


def test_a_keep_for_layers_that_are_not_there_is_refused():
    with pytest.raises(
        st.SiteError,
        match=r"keep=\{'zz': 0\.3\} matches none of the 2 pointwise layers of Sequential\. Nearest: '2', '4'",
    ):
        st.plan(network(), st.PointwisePruning(keep={"zz": 0.3}), calibration=images())
    plan = st.plan(network(), st.PointwisePruning(keep={"zz": 0.3, "4": 0.5}, pays="always"), calibration=images())
    assert [edit.path for edit in plan.edits] == ["4"]


@pytest.mark.parametrize("asked", [{"keep": 0.5}, {"target": "macs:0.8"}])
def test_a_block_of_one_pixel_has_nothing_to_cut(asked):
    said = r"cannot be reached: a block of one pixel has one coefficient, its mean, which always stays\. Pass a larger block"
    with pytest.raises(ValueError, match=said):
        st.plan(network(), st.PointwisePruning(block=1, **asked), calibration=images())
    whole = st.plan(network(), st.PointwisePruning(block=1, keep=1.0, pays="always"), calibration=images())
    assert len(whole.edits) == 2


def test_a_budget_that_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match=r"keep=0\.001 cannot be reached: with one coefficient in every block 0\.0156"):
        st.plan(network(), st.PointwisePruning(keep=0.001, pays="always"), calibration=images())
    with pytest.raises(ValueError, match=r"target='macs:0\.1' cannot be reached"):
        st.plan(network(), st.PointwisePruning(target="macs:0.1"), calibration=images())


def test_without_images_nothing_is_decided():
    with pytest.raises(ValueError, match="PointwisePruning looks at activations and needs calibration"):
        st.plan(network(), st.PointwisePruning())
    with pytest.raises(st.DataError, match="does not go through Sequential"):
        st.plan(network(), st.PointwisePruning(), calibration=torch.rand(2, 5, 8, 8))


def test_a_finalized_network_goes_through_a_file(tmp_path):
    model = st.compress_(network(), st.PointwisePruning(keep=0.3, pays="always"), calibration=images())
    expected = model(images())
    st.finalize_(model)
    assert isinstance(model[2], GroupedBandsConv2d)
    torch.testing.assert_close(model(images()), expected, atol=1e-6, rtol=1e-5)
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = st.load_(network(), tmp_path / "model.safetensors").eval()
    torch.testing.assert_close(loaded(images()), model(images()), atol=0, rtol=0)


def test_the_weights_inside_can_be_coded_too(tmp_path):
    model = st.compress_(network(), st.PointwisePruning(keep=0.4, pays="always"), calibration=images())
    st.compress_(model, st.FrequencyRegularization(keep=0.3, schedule="at-once"), where="2")
    st.anneal_(model, 1.0)
    assert [entry.site for entry in coded(model)] == ["2.weight"]
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = st.load_(network(), tmp_path / "model.safetensors", decode=False).eval()
    torch.testing.assert_close(loaded(images()), model(images()), atol=1e-6, rtol=1e-6)
    assert [entry.site for entry in coded(loaded)] == ["2.weight"]
    expected = model(images())
    torch.testing.assert_close(st.finalize_(model)(images()), expected, atol=1e-6, rtol=1e-5)


def test_learning_moves_the_bands_and_ends_at_the_budget():
    model = network().train()
    plan = st.plan(model, st.PointwisePruning(keep=0.4, learn=True, pays="always", rounds=2), calibration=images())
    assert "learn how many coefficients of 8 x 8 blocks each of 32 channels keeps, 40.0 % of all" in str(plan)
    plan.apply_(model)
    start = [theta.detach().clone() for theta in cut_offs(model)]
    assert [len(theta) for theta in start] == [32, 48]
    rest = [p for name, p in model.named_parameters() if not name.endswith("theta")]
    optimizer = torch.optim.Adam([{"params": rest, "lr": 1e-3}, {"params": cut_offs(model), "lr": 0.02}])
    wanted = network()(images()).detach()
    for step in range(30):
        loss = F.mse_loss(model(images()), wanted) + st.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        st.anneal_(model, (step + 1) / 30)
    assert any(not a.equal(b) for a, b in zip(start, cut_offs(model), strict=True))
    layers = [model[2], model[4]]
    kept = sum(float(m.kept.sum()) / 64 * m.weight.shape[0] * size for m, size in zip(layers, (256, 64), strict=True))
    assert kept <= 0.4 * (32 * 48 * 256 + 48 * 32 * 64)
    assert all(m.kept.unique().numel() <= 4 for m in layers)


def test_with_everything_kept_learning_comes_down_by_its_penalty_alone():
    model = st.compress_(
        network(), st.PointwisePruning(keep=1.0, learn=True, pays="always", strength=0.5), calibration=images()
    )
    st.anneal_(model.train(), 0.0)
    torch.testing.assert_close(st.penalty(model), torch.tensor(0.5))
    counted = st.compress_(
        network(),
        st.PointwisePruning(keep=1.0, learn=True, pays="always", strength=0.5, weigh="count"),
        calibration=images(),
    )
    st.anneal_(counted.train(), 0.0)
    torch.testing.assert_close(st.penalty(counted), torch.tensor(0.5))
    assert counted[2].learning.cost == counted[4].learning.cost == 1 / 80


def test_the_worth_of_a_coefficient_is_the_change_of_the_output():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 1)
    model, x = nn.Sequential(conv), torch.randn(400, 2, 4, 4)
    found = {s: read_spectra(model, {"0": conv}, [x], block=4, score=s)["0"] for s in ("output", "energy")}
    exact = found["output"].energy * conv.weight.detach()[:, :, 0, 0].square().sum(0)[:, None]
    # A linear model is its own first order; the random signs leave the error of a mean over 400 images.
    torch.testing.assert_close(found["output"].worth, exact.double(), rtol=0.5, atol=0)
    torch.testing.assert_close(found["output"].worth.sum(), exact.double().sum(), rtol=0.05, atol=0)
    torch.testing.assert_close(found["energy"].worth, (exact / exact.sum()).double(), rtol=1e-4, atol=0)


def test_a_layer_whose_channels_the_model_ignores_is_worth_nothing():
    class Ignores(nn.Module):
        def __init__(self):
            super().__init__()
            self.heard, self.ignored = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.heard(x) + 0 * self.ignored(x)

    plan = st.plan(Ignores(), st.PointwisePruning(keep=0.6, levels=64, pays="always"), calibration=images(size=8))
    kept = {edit.path: edit.spec["kept"] for edit in plan.edits}
    assert kept["ignored"] == [1, 1, 1]
    assert min(kept["heard"]) > 1


def test_looking_at_gradients_leaves_no_trace():
    model = network()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    st.plan(model, st.PointwisePruning(pays="always"), calibration=images())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_without_gradients_is_told_what_to_do():
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        @torch.no_grad()
        def forward(self, x):
            return self.conv(x)

    with pytest.raises(st.UnsupportedError, match=r"has no gradient\. Use score='energy'"):
        st.plan(Deaf(), st.PointwisePruning(), calibration=images())
    assert st.plan(Deaf(), st.PointwisePruning(score="energy", pays="always"), calibration=images()).edits


def test_the_clock_decides_if_asked(monkeypatch):
    asked = []

    def judged(forms, x, **_):
        dense, cut = forms
        asked.append((type(cut), [type(each) for each in dense.modules() if not list(each.children())], tuple(x.shape)))
        return [0.00031, 0.0001 if cut.geometry.in_channels == 32 else 0.00042]

    monkeypatch.setattr(pointwise_cuttable, "least_seconds", judged)
    plan = st.plan(network(), st.PointwisePruning(keep=0.5, pays="time"), calibration=images())
    assert [edit.path for edit in plan.edits] == ["2"]
    said = "is measured to be faster dense (0.31 against 0.42 ms)"
    assert [(row.site, row.reason) for row in plan.skipped] == [("4", said)]
    assert (GroupedBandsConv2d, [nn.Hardtanh, nn.Conv2d, nn.Hardtanh], (1, 32, 16, 16)) in asked, (
        "with the activations beside it"
    )
    assert (GroupedBandsConv2d, [nn.Conv2d], (1, 48, 8, 8)) in asked
    assert kept_share(plan) <= 0.5


def test_the_clock_is_a_real_one():
    # One coefficient of 64 in a wide layer: with or without the compiled kernels, plans are made and say why.
    plan = st.plan(network(), st.PointwisePruning(keep=0.1, pays="time"), calibration=images())
    assert len(plan.edits) + len(plan.skipped) == 2


class Residual(nn.Module):
    """Three bottlenecks around one stream, and a head that reads it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.project = nn.Conv2d(16, 8, 1)
        self.blocks = nn.ModuleList(self.block() for _ in range(3))
        self.head = nn.Conv2d(8, 24, 1)
        self.fc = nn.Linear(24, 5)

    @staticmethod
    def block():
        norm = nn.BatchNorm2d(8)
        for tensor in (norm.running_mean, norm.weight, norm.bias):
            nn.init.uniform_(tensor, 0.1)
        return nn.Sequential(
            nn.Conv2d(8, 24, 1),
            nn.ReLU6(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24),
            nn.ReLU6(),
            nn.Conv2d(24, 8, 1),
            norm,
        )

    def forward(self, x):
        x = self.project(self.first(x).relu())
        for block in self.blocks:
            x = x + block(x)
        return self.fc(self.head(x).relu().mean((2, 3)))


def test_tied_layers_have_the_bands_that_are_best_for_all_of_them():
    model = Residual().eval()
    readers = ["blocks.0.0", "blocks.1.0", "blocks.2.0", "head"]
    plans = {
        tie: st.plan(model, st.PointwisePruning(keep=0.4, pays="always", levels=64, tie=tie), calibration=images())
        for tie in (None, "stage")
    }
    kept = {tie: {edit.path: edit.spec["kept"] for edit in plan.edits} for tie, plan in plans.items()}
    assert len({tuple(kept["stage"][path]) for path in readers}) == 1
    assert len({tuple(kept[None][path]) for path in readers}) == 4
    assert kept["stage"].keys() == kept[None].keys()
    assert kept_share(plans["stage"]) <= 0.4


def test_tied_layers_learn_one_cut_off(tmp_path):
    model = Residual().eval()
    method = st.PointwisePruning(keep=0.4, pays="always", tie="stage", learn=True, rounds=1)
    plan = st.plan(model, method, calibration=images())
    plan = type(plan).from_json(plan.to_json())
    assert plan.after - plan.before == 16 + 3 * 24 + 8
    plan.apply_(model)
    assert sum(p.numel() for p in model.parameters()) == plan.after
    readers = [model.blocks[0][0], model.blocks[1][0], model.blocks[2][0], model.head]
    assert len({id(layer.theta) for layer in readers}) == 1
    assert len(cut_offs(model)) == 5
    optimizer = torch.optim.Adam(cut_offs(model), lr=0.02)
    for step in range(40):
        optimizer.zero_grad()
        (model.train()(images()).square().mean() + st.penalty(model)).backward()
        optimizer.step()
        st.anneal_(model, (step + 1) / 80)
    assert all(torch.equal(layer.kept, readers[0].kept) for layer in readers)
    assert len(set(readers[0].kept.tolist())) > 1
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = st.load_(Residual(), tmp_path / "model.safetensors")
    assert loaded.head.theta is loaded.blocks[0][0].theta
    torch.testing.assert_close(loaded.eval()(images()), model.eval()(images()))


def test_without_a_stream_tying_changes_nothing():
    plain, tied = (
        st.plan(network(), st.PointwisePruning(keep=0.4, pays="always", tie=tie), calibration=images())
        for tie in (None, "stage")
    )
    assert plain.edits == tied.edits
