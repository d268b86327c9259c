"""The banded pointwise convolution: worked examples, exactness, and the settings it learns by."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spectrim.errors import PlanError
from spectrim.kernels import banded
from spectrim.nn import BandedPointwiseConv2d, GroupedBandsConv2d, Learning, cut_offs
from spectrim.nn.blockwise import to_blocks
from spectrim.surgery import Plan, SwapModule
from spectrim.transforms.scans import block_basis
from spectrim.verbs import anneal_, finalize_, penalty

WEIGHT, BIAS = torch.tensor([[1.0, 2], [-1, 3]]), torch.tensor([0.5, -1])


def layer(block, kept, **more):
    found = BandedPointwiseConv2d(2, 2, block, kept=kept, **more)
    with torch.no_grad():
        found.weight.copy_(WEIGHT[:, :, None, None])
        found.bias.copy_(BIAS)
    return found


def random_layer(inside=6, out=9, block=(7, 7), **more):
    generator = torch.Generator().manual_seed(inside + out)
    frequencies = block[0] * block[1]
    kept = torch.randint(1, frequencies + 1, (inside,), generator=generator).tolist()
    return filled(BandedPointwiseConv2d(inside, out, block, kept=more.pop("kept", kept), **more)).double()


def filled(module):
    for parameter in (module.weight, module.bias):
        if parameter is not None:
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(5))
    return module


def both_forms(module):
    return [module, module.finalized()]


def test_one_block_of_the_worked_example():
    x = torch.tensor([[[1.0, 2], [3, 4]], [[0, 1], [0, -1]]])
    for form in both_forms(layer((2, 2), [2, 3])):
        expected = torch.tensor([[[3.5, 4.5], [1.5, 2.5]], [[-1.5, -2.5], [-4.5, -5.5]]])
        torch.testing.assert_close(form(x), expected, atol=1e-6, rtol=0)
    whole = torch.tensor([[[1.5, 4.5], [3.5, 2.5]], [[-2.0, 0], [-4, -8]]])
    for form in both_forms(layer((2, 2), [4, 4])):
        torch.testing.assert_close(form(x), whole, atol=1e-6, rtol=0)


def test_four_blocks_of_the_worked_example():
    x = torch.stack([torch.arange(16.0), torch.arange(16.0) % 5]).reshape(1, 2, 4, 4)
    first = [[5, 3, 8.5, 11.5], [8, 6, 6.5, 9.5], [16.5, 19.5, 15, 13], [14.5, 17.5, 18, 16]]
    second = [[0.75, -4.75, 1, 3], [5.25, -0.25, -2, 0], [-2, 0, -9.25, -14.75], [-5, -3, -4.75, -10.25]]
    for form in both_forms(layer((2, 2), [2, 3])):
        torch.testing.assert_close(form(x), torch.tensor([[first, second]]), atol=1e-5, rtol=0)


def test_the_whole_map_of_the_worked_example():
    x = torch.stack([torch.arange(16.0), torch.arange(16.0) % 5]).reshape(1, 2, 4, 4)
    rows = [
        [[4.464466, 4.891243, 5.494796, 5.921573], [17.578427, 18.005204, 18.608757, 19.035534]],
        [[4.410534, 2.916815, 0.804379, -0.689340], [-5.060660, -6.554379, -8.666815, -10.160534]],
    ]
    for form in both_forms(layer((4, 4), [6, 3])):
        torch.testing.assert_close(form(x)[0][:, [0, 3]], torch.tensor(rows), atol=1e-5, rtol=0)


SHAPES = {
    "more out": (6, 9, (7, 7), (14, 14)),
    "fewer out": (9, 6, (7, 7), (14, 21)),
    "padded": (4, 4, (8, 8), (13, 9)),
    "smaller than a block": (5, 3, (8, 8), (3, 2)),
    "not square": (3, 5, (2, 4), (6, 8)),
}


@pytest.mark.parametrize(("inside", "out", "block", "size"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_with_all_coefficients_it_is_the_convolution(inside, out, block, size, stride, bias):
    banded = BandedPointwiseConv2d(inside, out, block, stride=stride, bias=bias).double()
    plain = nn.Conv2d(inside, out, 1, stride, bias=bias).double()
    banded.take_over(plain)
    x = torch.randn(2, inside, *size, dtype=torch.float64)
    torch.testing.assert_close(banded(x), plain(x))
    assert type(banded.finalized()) is nn.Conv2d
    torch.testing.assert_close(banded.finalized()(x), plain(x))
    forced = GroupedBandsConv2d.of(banded.geometry, banded.weight, banded.bias, banded.kept.long())
    torch.testing.assert_close(forced(x), plain(x))


@pytest.mark.parametrize(("inside", "out", "block", "size"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("order", ["zigzag", "radial", "square", "shuffled"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_the_dense_form_computes_the_masked_form(inside, out, block, size, order, stride):
    if order == "shuffled":
        order = [0, *(1 + torch.randperm(block[0] * block[1] - 1)).tolist()]
    masked = random_layer(inside, out, block, order=order, stride=stride)
    dense = masked.finalized()
    assert isinstance(dense, GroupedBandsConv2d)
    x = torch.randn(2, inside, *size, dtype=torch.float64)
    torch.testing.assert_close(dense(x), masked(x))
    torch.testing.assert_close(dense(x[0]), masked(x[0]))
    again = GroupedBandsConv2d.from_spec(dense.spec()).double()
    again.load_state_dict(dense.state_dict())
    torch.testing.assert_close(again(x), dense(x), atol=0, rtol=0)


def test_the_means_of_blocks_are_what_they_were():
    module = random_layer(6, 6, (4, 4), kept=[1, 2, 3, 5, 8, 15])
    plain = nn.Conv2d(6, 6, 1).double()
    module.take_over(plain)
    x = torch.randn(3, 6, 8, 12, dtype=torch.float64)
    pool = nn.AvgPool2d(4)
    torch.testing.assert_close(pool(module(x)), pool(plain(x)))


def test_the_error_is_the_energy_dropped_times_the_weights_energy():
    plain = nn.Conv2d(3, 5, 1).double()
    module = BandedPointwiseConv2d(3, 5, (4, 4), kept=[16, 6, 16]).double()
    module.take_over(plain)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    whole, cut = (
        BandedPointwiseConv2d(1, 1, (4, 4), bias=False),
        BandedPointwiseConv2d(1, 1, (4, 4), kept=[6], bias=False),
    )
    for each in (whole, cut):
        each.double()
        nn.init.ones_(each.weight)
    dropped = (whole(x[:, 1:2]) - cut(x[:, 1:2])).square().sum()
    expected = plain.weight[:, 1].square().sum() * dropped
    torch.testing.assert_close((plain(x) - module(x)).square().sum(), expected)


def test_the_order_of_the_channels_does_not_matter():
    module = random_layer(8, 5)
    order = torch.randperm(8)
    other = BandedPointwiseConv2d(8, 5, (7, 7), kept=module.kept[order].tolist()).double()
    with torch.no_grad():
        other.weight.copy_(module.weight[:, order])
        other.bias.copy_(module.bias)
    x = torch.randn(1, 8, 14, 14, dtype=torch.float64)
    for form, permuted in zip(both_forms(module), both_forms(other), strict=True):
        torch.testing.assert_close(permuted(x[:, order]), form(x))


def test_a_normalisation_folds_into_weight_and_mean():
    weight, shift = 1.5 / 2, 0.2 - 0.3 * 1.5 / 2
    assert (weight, round(shift, 6)) == (0.75, -0.025)
    module = BandedPointwiseConv2d(1, 1, (7, 7)).double()
    with torch.no_grad():
        module.weight.fill_(weight)
        module.bias.fill_(shift)
    y = module(torch.zeros(1, 1, 7, 7, dtype=torch.float64))
    torch.testing.assert_close(y.sum() / 7, torch.tensor(-0.175, dtype=torch.float64))  # the first coefficient


def test_a_normalisation_has_the_statistics_in_frequencies_that_it_has_in_pixels():
    x = 1 + 2 * torch.randn(3, 5, 14, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm = nn.BatchNorm2d(5, momentum=1.0).double().train()
    norm(x)
    coefficients = to_blocks(x, (7, 7)) @ block_basis((7, 7), range(49)).T
    mean = coefficients[..., 0].mean((0, 2)) / 7
    var = coefficients.square().mean((0, 2, 3)) - mean.square()
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(var * 588 / 587, norm.running_var)


@pytest.mark.parametrize(("kept", "gathers"), [([5, 3, 3, 2], 0), ([3, 5, 2, 3], 1)])
def test_nothing_is_gathered_or_scattered_on_the_way_but_channels_that_are_not_sorted(monkeypatch, kept, gathers):
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, _, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(banded, "built", lambda: False)
    names, x = [], torch.rand(2, 4, 8, 8)
    groups = random_layer(4, 6, (4, 4), kept=kept).float().finalized().eval()
    with torch.no_grad():
        groups(x)  # which looks up the order of the channels
        with Seen():
            groups(x)
    moved = [name for name in names if any(word in name for word in ("index", "gather", "scatter", "sparse", "take"))]
    assert moved == ["aten.index_select.default"] * gathers
    assert names.count("aten.mm.default") == 2 * len(set(kept)) + 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_transform_stays_exact(dtype):
    module = random_layer(6, 9).to(dtype)
    assert module.basis.dtype is torch.float32
    torch.testing.assert_close(module.basis @ module.basis.T, torch.eye(49), atol=1e-6, rtol=0)
    x = torch.randn(1, 6, 14, 14, dtype=dtype)
    wide = copy.deepcopy(module).double()
    for form in both_forms(module):
        torch.testing.assert_close(form(x).double(), wide(x.double()), atol=0.05, rtol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.float()(x.float()).dtype is torch.bfloat16


def test_gradients_are_those_of_finite_differences():
    module = random_layer(3, 4, (2, 2), kept=[1, 2, 4])
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))
    assert torch.autograd.gradcheck(module.finalized(), (x,))


# -- learning ----------------------------------------------------------------------------------------------------------


def pair(**settings):
    """The two layers of the worked example: costs 64 and 32 per channel, 4 and 2 channels."""
    total = 64 * 4 + 32 * 2
    first = BandedPointwiseConv2d(4, 3, (2, 2), kept=[3, 1, 4, 2], learning=Learning(cost=64 / total, **settings))
    second = BandedPointwiseConv2d(2, 3, (2, 2), kept=[2, 4], learning=Learning(cost=32 / total, **settings))
    return nn.ModuleList([first, second]).train()


def test_the_penalty_is_that_of_the_worked_example():
    layers = pair(strength=1.0)
    anneal_(layers, 0.0)
    torch.testing.assert_close(penalty(layers), torch.tensor(0.65))
    layers = pair(strength=2.0, keep=0.5)
    anneal_(layers, 0.0)
    torch.testing.assert_close(penalty(layers), torch.tensor(2 * 0.15))
    layers = pair(strength=2.0, keep=0.7)
    anneal_(layers, 0.0)
    assert penalty(layers) == 0


def test_cut_offs_and_weights_train_in_turn():
    module = BandedPointwiseConv2d(3, 4, (2, 2), learning=Learning(cost=1 / 3, rounds=2)).train()
    x = torch.randn(2, 3, 4, 4)
    seen = []
    for progress in (0.0, 0.1, 0.25, 0.35, 0.5, 1.0):
        anneal_(module, progress)
        module.zero_grad()
        (module(x).square().sum() + penalty(module)).backward()
        seen.append((module.weight.grad is not None, module.bias.grad is not None, module.theta.grad is not None))
    cut, weights = (False, False, True), (True, True, False)
    assert seen == [cut, weights, cut, weights, weights, weights]
    both = BandedPointwiseConv2d(3, 4, (2, 2), learning=Learning(cost=1 / 3, rounds=0)).train()
    anneal_(both, 0.1)
    (both(x).square().sum() + penalty(both)).backward()
    assert all(parameter.grad is not None for parameter in both.parameters())


def test_the_ramp_narrows_from_four_to_one_in_every_round():
    learning = Learning(cost=1, rounds=2)
    assert [round(learning.ramp(p), 3) for p in (0.0, 1 / 24, 0.8 / 12, 1 / 12)] == [4.0, 1.5, 1.0, 1.0]
    assert learning.ramp(0.25) == 4.0


def test_evaluation_sees_whole_counts_at_all_times():
    module = BandedPointwiseConv2d(1, 1, (2, 4), learning=Learning(cost=1)).train()
    with torch.no_grad():
        module.theta.fill_(5.5 / 8)
    anneal_(module, 0.0)
    assert module.mask()[0].tolist() == [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0]
    assert module.eval().mask()[0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert module.kept.tolist() == [6]


def test_an_optimizer_that_leaves_the_range_is_called_back():
    module = BandedPointwiseConv2d(2, 1, (2, 2), learning=Learning(cost=1)).train()
    anneal_(module, 0.0)
    with torch.no_grad():
        module.theta.copy_(torch.tensor([-3.0, 7.0]))
    anneal_(module, 0.01)
    assert module.theta.tolist() == [0.25, 1.0]
    assert module.kept.tolist() == [1, 4]


def test_in_the_end_the_target_holds_and_levels_are_few():
    layers = nn.ModuleList(
        BandedPointwiseConv2d(20, 4, (4, 4), learning=Learning(cost=1 / 40, keep=0.5, levels=3)) for _ in range(2)
    )
    for module in layers:
        nn.init.uniform_(module.theta, 0.2, 1.0, generator=torch.Generator().manual_seed(1))
    anneal_(layers, 1.0)
    share = sum(float(module.kept.sum()) / 16 / 40 for module in layers)
    assert 0.4 < share <= 0.5
    assert all(module.kept.unique().numel() <= 3 for module in layers)
    before = [module.kept.clone() for module in layers]
    anneal_(layers, 1.0)
    anneal_(layers, 0.2)
    assert all(a.equal(module.kept) for a, module in zip(before, layers, strict=True))


def known_cuts():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 16, generator=generator) / 4
    sigma = (1 / (1 + torch.arange(49.0))).sqrt()
    return weight, sigma, generator


def learned(weight, sigma, generator, *, lr, steps, target, price):
    """What a layer of 16 channels that reads spectra of 49 coefficients learns to keep; see the method's page for the experiment."""
    learning = Learning(cost=49.0, strength=price, rounds=0, levels=49)
    module = BandedPointwiseConv2d(16, 32, (7, 7), bias=False, learning=learning)
    net = nn.Sequential(module).train()
    with torch.no_grad():
        module.weight.copy_(weight[:, :, None, None])
    optimizer = torch.optim.Adam(cut_offs(net), lr=lr)
    anneal_(net, 0.0)
    for step in range(steps):
        x = torch.randn(64, 16, 49, generator=generator) * sigma
        maps, wanted = ((each @ module.basis).reshape(64, 16, 7, 7) for each in (x, target(x)))
        wanted = nn.functional.conv2d(wanted, module.weight.detach())
        loss = 0.5 * (net(maps) - wanted).square().sum() / 64 + penalty(net)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        anneal_(net, 0.5 * (step + 1) / steps)
    assert module._phase == "settled"
    return module.kept.long()


def test_learning_finds_cuts_that_are_known():
    weight, sigma, generator = known_cuts()
    wanted = torch.randint(3, 46, (16,), generator=generator)
    inside = (torch.arange(49) < wanted[:, None]).float()
    found = learned(weight, sigma, generator, lr=0.005, steps=600, target=lambda x: x * inside, price=0.0005)
    assert int((found - wanted).abs().max()) <= 1


@pytest.mark.slow
def test_learning_keeps_what_is_worth_its_price():
    weight, sigma, generator = known_cuts()
    worth = 0.5 * sigma.square()[None] * weight.square().sum(0)[:, None] > 0.1
    found = learned(weight, sigma, generator, lr=0.01, steps=3000, target=lambda x: x, price=0.1)
    assert int((found - worth.sum(1)).abs().max()) <= 3


# -- plans, files ------------------------------------------------------------------------------------------------------

SPEC = {"in": 2, "out": 3, "block": [2, 2], "bias": True}


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (nn.Conv2d(4, 3, 1), r"planned for '0' with a weight of shape \(3, 2, 1, 1\), found \(3, 4, 1, 1\)"),
        (nn.Conv2d(2, 3, 3), r"found \(3, 2, 3, 3\)"),
        (nn.Conv2d(2, 3, 1, bias=False), r"planned for '0' with a bias of shape \(3,\), found None"),
        (nn.Conv2d(2, 3, 1, 2), r"planned for '0' with the stride \(1, 1\), found \(2, 2\)"),
        (nn.ReLU(), r"found None\. Plan again on this model\."),
    ],
    ids=repr,
)
def test_a_plan_for_another_convolution_changes_nothing(conv, message):
    model = nn.Sequential(conv)
    with pytest.raises(PlanError, match=message):
        Plan("m", "Sequential", (SwapModule("0", "banded-pointwise", SPEC),)).apply_(model)
    assert model[0] is conv


def test_swapping_keeps_the_parameters_themselves():
    model = nn.Sequential(nn.Conv2d(2, 3, 1))
    weight, bias = model[0].weight, model[0].bias
    Plan("m", "Sequential", (SwapModule("0", "banded-pointwise", SPEC),)).apply_(model)
    assert model[0].weight is weight
    assert model[0].bias is bias
    assert list(model.state_dict()) == ["0.weight", "0.bias", "0.kept"]


@pytest.mark.parametrize(
    "change",
    [
        {"in": 0},
        {"out": 1.5},
        {"block": [0, 2]},
        {"block": [64, 64]},
        {"block": 2},
        {"stride": [1]},
        {"order": "spiral"},
        {"order": [0, 1, 1, 2]},
        {"order": 3},
        {"bias": 1},
        {"kept": [1]},
        {"kept": [0, 1]},
        {"kept": [1, 5]},
        {"kept": 2},
        {"learning": 3},
        {"learning": {"cost": -1}},
        {"learning": {"price": 1}},
        {"learning": {"cost": 1, "keep": 2}},
        {"learning": {"cost": 1, "rounds": -1}},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_spec_from_a_stranger_is_checked(change):
    BandedPointwiseConv2d.from_spec(SPEC)
    with pytest.raises(ValueError, match=r"."):
        BandedPointwiseConv2d.from_spec(SPEC | change)


@pytest.mark.parametrize(
    "groups",
    [[], [[2, 5]], [[1, 1], [1, 2]], [[3, 1]], [[2, 0]], [[2]], 3, [["a", 1]], [[1, 2], [0, 1], [1, 1]]],
    ids=str,
)
def test_groups_from_a_stranger_are_checked(groups):
    GroupedBandsConv2d.from_spec(SPEC | {"groups": [[1, 4], [1, 2]]})
    with pytest.raises(ValueError, match=r"groups must"):
        GroupedBandsConv2d.from_spec(SPEC | {"groups": groups})


def test_learning_goes_on_from_a_checkpoint():
    def build():
        return filled(BandedPointwiseConv2d(3, 4, (2, 2), learning=Learning(cost=1 / 3))).train()

    one = build()
    anneal_(one, 0.02)
    other = build()
    nn.init.zeros_(other.weight)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(other(x), one(x), atol=0, rtol=0)
    assert not other.mask().equal(torch.ones(3, 4)), "it goes on where the ramp was"
    assert cut_offs(other)[0] is other.theta


def test_a_model_is_finalized_with_its_layers():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), random_layer(3, 4, (2, 2)).float())
    x = torch.randn(1, 3, 6, 6)
    expected = model(x)
    finalize_(model)
    assert type(model[1]) is GroupedBandsConv2d
    torch.testing.assert_close(model(x), expected)
