"""A cut network whose layers are fitted anew: where the answer is known exactly, and what must stay as it was."""

import copy
import json
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spectrim as st
from spectrim.repair import original as original_file
from spectrim.repair import refit as refit_file
from spectrim.surgery.channels import cut, groups
from spectrim.surgery.plan import Plan


class Net(nn.Module):
    """Every kind of reader: behind a norm, depthwise, transposed, added, without a bias, flattened."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)
        self.bare = nn.Conv2d(6, 4, 1, bias=False)
        self.fc = nn.Linear(4 * 36, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.body(x)))
        x = F.relu(self.up(F.relu(self.depth(x))))
        return self.fc(self.bare(x).flatten(1))


IMAGES = torch.randn(96, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net().double().train()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    model(3 * torch.randn(64, 3, 6, 6).double())
    return model.eval()


def doubled_(model):
    """Write every channel twice, so that half of them can go without loss."""
    axes = {
        "stem": [("weight", 0), ("bias", 0)], "norm": [(n, 0) for n in ("weight", "bias", "running_mean", "running_var")],
        "body": [("weight", 0)], "norm2": [(n, 0) for n in ("weight", "bias", "running_mean", "running_var")],
        "depth": [("weight", 0), ("bias", 0)], "up": [("weight", 1), ("bias", 0)], "bare": [("weight", 0)],
    }  # fmt: skip
    for path, tensors in axes.items():
        for name, dim in tensors:
            value = getattr(getattr(model, path), name).data
            half = value.shape[dim] // 2
            value.narrow(dim, half, half).copy_(value.narrow(dim, 0, half))
    return model


def halved(model):
    """The plan that removes the second half of every group of channels."""
    found, _ = groups(model, [IMAGES[:1].to(model.stem.weight.dtype)])
    edits = [cut(model, group, range(len(group.units) // 2, len(group.units))) for group in found]
    assert len(edits) == 3
    return Plan("half", type(model).__name__, tuple(edits))


def repaired(model, plan, calibration=IMAGES, **options):
    small = plan.apply_(copy.deepcopy(model))
    return small, st.repair_(small, model, plan=plan, calibration=calibration, **options)


def numbers(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# -- where the answer is known ------------------------------------------------------------------------------------------


def test_copies_of_channels_go_without_any_loss(net):
    doubled_(net)
    plan = halved(net)
    x = torch.randn(50, 3, 6, 6, dtype=torch.float64)  # not those that it was fitted to
    assert (plan.apply_(copy.deepcopy(net))(x) - net(x)).abs().max() > 0.1
    small, report = repaired(net, plan, ridge=1e-11)
    torch.testing.assert_close(small(x), net(x), rtol=1e-6, atol=1e-6)
    assert report.before > 0.01
    assert report.after < 1e-12
    assert [row.path for row in report.refitted] == ["body", "up", "bare", "fc"]
    assert {row.site: row.reason for row in report.left} == dict.fromkeys(
        ("stem", "depth"), "reads what it read before"
    )
    assert all(row.after < 1e-10 < row.before for row in report.refitted)


def test_folded_norms_stay_folded(net):
    doubled_(net)
    for norm in (net.norm, net.norm2):
        norm.reset_running_stats()
    small, _ = repaired(net, halved(net), ridge=1e-11)
    torch.testing.assert_close(small(IMAGES), net(IMAGES), rtol=1e-6, atol=1e-6)


def test_a_fit_to_few_of_very_many_inputs_works_too(net, monkeypatch):
    doubled_(net)
    monkeypatch.setattr(original_file, "LARGEST", 20)
    _, report = repaired(net, halved(net), ridge=1e-11)
    assert report.after < 0.01 * report.before
    assert len(report.refitted) >= 4


def test_what_is_left_is_nearer_to_the_original_in_every_layer_and_at_the_end(net):
    plan = halved(net)
    small, report = repaired(net, plan)
    assert [row.path for row in report.refitted] == ["body", "depth", "up", "bare", "fc"]
    assert [row.inputs for row in report.refitted] == [(36, 72), (9, 9), (64, 128), (3, 6), (72, 144)]
    assert all(row.after < row.before for row in report.refitted)
    held = IMAGES[7::8]
    assert report.images == (84, 12)
    for model, found in ((small, report.after), (plan.apply_(copy.deepcopy(net)), report.before)):
        with torch.no_grad():
            off = (model(held) - net(held)).square().sum() / net(held).square().sum()
        assert float(off) == pytest.approx(found, rel=1e-6)
    assert report.after < 0.5 * report.before


def test_a_readers_weights_are_those_of_least_squares(net, monkeypatch):
    monkeypatch.setattr(
        refit_file, "_off", lambda *_: 0.0
    )  # without a ridge, later layers fit noise, and all would be undone
    plan = halved(net)
    small, _ = repaired(net, plan, ridge=1e-9)
    fit = torch.cat([IMAGES[row::8] for row in range(7)])
    with torch.no_grad():
        x = F.unfold(F.relu(small.norm(small.stem(fit))), 3, padding=1).transpose(1, 2).flatten(0, 1)
        y = net.body(F.relu(net.norm(net.stem(fit))))[:, :4].flatten(2).transpose(1, 2).flatten(0, 1)
        solution = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution
        out = small.norm2(small.body(F.relu(small.norm(small.stem(fit)))))
        whole = net.norm2(net.body(F.relu(net.norm(net.stem(fit)))))[:, :4]
    torch.testing.assert_close(small.body.weight.flatten(1), solution.T, rtol=1e-5, atol=1e-6)
    for moment in (torch.mean, torch.var):  # the norm behind it gives back what it gave
        torch.testing.assert_close(moment(out, (0, 2, 3)), moment(whole, (0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_nothing_is_changed_where_nothing_is_cut(net):
    before = numbers(net)
    model, report = repaired(net, Plan("none", "Net", ()))
    assert same(model, before)
    assert report.refitted == ()
    assert report.norms == 0
    assert {row.reason for row in report.left} == {"reads what it read before"}


def test_batches_may_fall_in_any_way_and_the_first_images_are_taken(net):
    plan = halved(net)
    one, _ = repaired(net, plan)
    other, _ = repaired(net, plan, iter([*IMAGES.split([5, 60, 31]), IMAGES * float("nan")]), images=96)
    assert same(one, numbers(other))
    _, fewer = repaired(net, plan, [(part, torch.zeros(len(part))) for part in IMAGES.split(10)], images=45)
    assert fewer.images == (40, 5)


def test_single_precision_comes_close_to_double(net):
    plan = halved(net)
    double, _ = repaired(net, plan)
    single, _ = repaired(copy.deepcopy(net).float(), plan, IMAGES.float())
    torch.testing.assert_close(single(IMAGES.float()).double(), double(IMAGES), rtol=1e-2, atol=1e-2)


def test_half_precision_works(net):
    model = copy.deepcopy(net).bfloat16()
    _, report = repaired(model, halved(model), IMAGES.bfloat16())
    assert report.after < report.before


# -- what is left alone -------------------------------------------------------------------------------------------------


def test_layers_that_are_not_understood_are_left_by_name():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.write = nn.Conv2d(3, 8, 1)
            self.twice = nn.Conv2d(8, 8, 1)
            self.standard = Standardised(3, 2, 1)
            self.read = nn.Conv2d(8, 2, 1)
            self.idle = nn.Linear(3, 3)

        def forward(self, images):
            x = F.relu(self.write(images))
            x = x + F.relu(self.twice(F.relu(self.twice(x))))
            return self.read(x) + self.standard(images)

    torch.manual_seed(0)
    model, x = Odd().eval(), IMAGES.float()
    found, _ = groups(model, [x[:1]])
    plan = Plan("half", "Odd", tuple(cut(model, group, [0, 2, 4]) for group in found))
    _, report = repaired(model, plan, x)
    reasons = {row.site: row.reason for row in report.left}
    assert reasons == {
        "write": "reads what it read before",
        "twice": "is called 2 times",
        "standard": "is not called with its own weight for the calibration",
        "idle": "is not called with its own weight for the calibration",
    }
    assert [row.path for row in report.refitted] == ["read"]
    assert "twice     left as it is: is called 2 times" in str(report)


def test_a_layer_that_a_fit_would_make_worse_keeps_its_weights(net):
    plan = halved(net)
    x = torch.zeros_like(IMAGES)
    x[:, 0] = 1e-3 * torch.randn(96, 6, 6)
    x[7::8] = IMAGES[7::8]  # nothing that is fitted to says anything about what is held out
    small, report = repaired(net, plan, x, ridge=1e-9)
    left = {row.site: row.reason for row in report.left}
    assert "body" in left
    assert left["body"].startswith("a refit does not help: ")
    assert torch.equal(small.body.weight, plan.apply_(copy.deepcopy(net)).body.weight)


def test_nothing_else_is_changed(net):
    plan = halved(net)
    net.norm.train()
    small = plan.apply_(copy.deepcopy(net))
    small.fc.weight.requires_grad_(requires_grad=False)
    parameters, modes = list(small.parameters()), [module.training for module in small.modules()]
    before, random = numbers(net), torch.get_rng_state()
    st.repair_(small, net, plan=plan, calibration=IMAGES)
    assert same(net, before)
    assert net.norm.training
    assert [module.training for module in small.modules()] == modes
    assert all(one is other for one, other in zip(parameters, small.parameters(), strict=True))
    assert not small.fc.weight.requires_grad
    assert small.body.weight.requires_grad
    assert small.body.weight.grad is None
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert small.norm.num_batches_tracked == net.norm.num_batches_tracked
    loss = small.train()(IMAGES).square().sum()
    loss.backward()


def test_the_report_goes_through_json_and_prints(net):
    _, report = repaired(net, halved(net))
    document = json.loads(json.dumps(report.to_json()))
    assert document["refitted"][0]["path"] == "body"
    lines = str(report).splitlines()
    assert lines[0].startswith("refitted 5 of 6 layers and 1 norms to 84 images; on 12 others ")
    assert "  up     64 of 128 inputs; " in lines[3]


def test_a_repaired_network_is_written_and_read_like_any_other(net, tmp_path):
    small, _ = repaired(net.float(), halved(net), IMAGES.float())
    st.save(small, tmp_path / "small.safetensors", dtype=torch.float32)
    loaded = st.load_(Net(), tmp_path / "small.safetensors").eval()
    torch.testing.assert_close(loaded(IMAGES.float()), small(IMAGES.float()), rtol=1e-5, atol=1e-5)


# -- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"calibration": None}, ValueError, "a repair looks at activations"),
        ({"calibration": []}, st.DataError, "the calibration is empty"),
        ({"calibration": IMAGES[:1]}, st.DataError, "has 1 image, expected at least 2"),
        ({"calibration": [IMAGES, IMAGES * float("nan")], "images": 200}, st.DataError, "batch 1 holds"),
        ({"calibration": [IMAGES, IMAGES[..., :5]], "images": 200}, st.DataError, r"batch 1 has images of shape \(3, 6, 5\)"),
        ({"calibration": IMAGES[:, :2]}, st.DataError, "does not go through Net"),
        ({"images": 1}, ValueError, "images must be at least 2"),
        ({"ridge": 0.0}, ValueError, "ridge must be positive"),
        ({"ridge": float("nan")}, ValueError, "ridge must be positive"),
    ],
)  # fmt: skip
def test_after_an_error_the_model_is_as_it_was(net, options, error, message):
    plan = halved(net)
    small = plan.apply_(copy.deepcopy(net))
    before = numbers(small)
    with pytest.raises(error, match=message):
        st.repair_(small, net, plan=plan, **{"calibration": IMAGES, **options})
    assert same(small, before)
    assert not small.training


def test_a_failure_in_the_middle_leaves_the_model_as_it_was(net, monkeypatch):
    plan = halved(net)
    small = plan.apply_(copy.deepcopy(net))
    before = numbers(small)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(small.fc, "forward", fail)
    calls = []
    forward = small.forward
    monkeypatch.setattr(small, "forward", lambda x: calls.append(0) or (forward(x) if len(calls) > 1 else net(x)))
    with pytest.raises(KeyboardInterrupt):
        st.repair_(small, net, plan=plan, calibration=IMAGES)
    assert same(small, before)


def test_broken_weights_are_named(net):
    plan = halved(net)
    small = plan.apply_(copy.deepcopy(net))
    net.fc.weight.data[0, 0] = float("nan")
    small.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(st.DataError, match="the output for the calibration images is not finite"):
        st.repair_(small, net, plan=plan, calibration=IMAGES)


def test_a_model_that_is_not_the_cut_one_is_refused(net):
    plan = halved(net)
    with pytest.raises(
        st.PlanError, match=r"repair 'stem.weight', which the plan leaves with shape \(4, 3, 3, 3\), found \(8"
    ):
        st.repair_(copy.deepcopy(net), net, plan=plan, calibration=IMAGES)
    small = st.compress_(plan.apply_(copy.deepcopy(net)), st.FrequencyRegularization(keep=0.5))
    with pytest.raises(st.OrderError, match=r"tensors are already coded .* Cut, repair, and code last"):
        st.repair_(small, net, plan=plan, calibration=IMAGES)


def test_where_the_output_ends_further_off_all_stays_as_it_was(net, monkeypatch):
    plan = st.plan(net, st.CFDP(keep=0.5, score="random", round_to=1), calibration=IMAGES)
    cut = plan.apply_(copy.deepcopy(net))
    before = copy.deepcopy(cut.state_dict())
    found = iter([0.1, 0.2])
    monkeypatch.setattr(refit_file, "_off", lambda *_: next(found))
    report = st.repair_(cut, net, plan=plan, calibration=IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in cut.state_dict().items())
    assert (report.refitted, report.norms, report.before, report.after) == ((), 0, 0.1, 0.1)
    assert sum("all refits together do not help: 10.0%" in row.reason for row in report.left) > 3
    assert re.search(
        r"; undone: \d+ layers and \d+ norms do not help: 10.0% .* 20.0% would be$", str(report).splitlines()[0]
    )


def test_what_is_undone_is_said_where_norms_alone_were_changed(net, monkeypatch):
    plan = st.plan(net, st.CFDP(keep=0.5, score="random", round_to=1), calibration=IMAGES)
    cut = plan.apply_(copy.deepcopy(net))
    before = copy.deepcopy(cut.state_dict())
    found = iter([0.1, 0.2])
    monkeypatch.setattr(refit_file, "_off", lambda *_: next(found))
    monkeypatch.setattr(refit_file._Mender, "_refit_", lambda *_: "a refit does not help")
    report = st.repair_(cut, net, plan=plan, calibration=IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in cut.state_dict().items())
    assert {row.reason for row in report.left} == {"a refit does not help"}
    assert re.fullmatch(
        r"0 layers and [1-9] norms do not help: 10.0% of the output is off, 20.0% would be", report.undone
    )
    assert report.to_json()["undone"] == report.undone
    assert report.undone in str(report).splitlines()[0]
