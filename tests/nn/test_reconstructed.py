"""Template convolutions: the digits of small ones by hand, both ways to compute, and the pruning of many."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.templates import Rebuilding, assigned, chosen
from spectrim.transforms.taps import FAMILIES, Family


def filled(
    sizes: ConvSizes,
    templates: Tensor,
    transformations: Tensor,
    template: list[int],
    *,
    groups: int = 1,
    family: Family = "scalar",
) -> TemplateConv:
    """A layer in double precision; templates are the first outputs."""
    layer = TemplateConv(sizes, family=family, groups=groups, templates=len(templates)).double()
    with torch.no_grad():
        layer.weight.copy_(templates)
        layer.transformations.copy_(transformations.flatten())
        layer.template.copy_(torch.tensor(template))
    return layer


@pytest.mark.parametrize("way", ["rebuilt", "two-stage"])
def test_one_template_and_three_sets_of_factors(way):
    layer = filled(
        ConvSizes.of(nn.Conv2d(1, 4, 3, padding=1, bias=False)),
        torch.arange(1.0, 10).reshape(1, 1, 3, 3),
        torch.stack([torch.ones(3, 3), torch.eye(3), torch.tensor([[0.0, 0, 0], [0, -2, 0], [0, 0, 0]])]),
        [0, 0, 0, 0],
    )
    form = layer if way == "rebuilt" else layer.alternatives()["two stages"]
    x = torch.arange(16.0, dtype=torch.float64).reshape(1, 1, 4, 4)
    y = form(x)[0]
    first = [[83, 139, 178, 121], [198, 303, 348, 225], [330, 483, 528, 333], [181, 253, 274, 163]]
    second = [[45, 59, 73, 15], [101, 115, 130, 37], [157, 175, 190, 61], [60, 73, 79, 85]]
    expected = torch.stack([torch.tensor(first), torch.tensor(first), torch.tensor(second)]).double()
    torch.testing.assert_close(y[:3], expected)
    torch.testing.assert_close(y[3], -10 * x[0, 0])


@pytest.mark.parametrize("way", ["rebuilt", "two-stage"])
def test_the_same_in_steps_of_two(way):
    layer = filled(
        ConvSizes.of(nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)),
        torch.arange(1.0, 10).reshape(1, 1, 3, 3),
        torch.stack([torch.ones(3, 3), torch.eye(3), torch.tensor([[0.0, 0, 0], [0, -2, 0], [0, 0, 0]])]),
        [0, 0, 0, 0],
    )
    form = layer if way == "rebuilt" else layer.alternatives()["two stages"]
    y = form(torch.arange(16.0, dtype=torch.float64).reshape(1, 1, 4, 4))[0]
    expected = [[[83, 178], [330, 528]], [[45, 73], [157, 190]], [[0, -20], [-80, -100]]]
    torch.testing.assert_close(y[1:], torch.tensor(expected).double())


@pytest.mark.parametrize("way", ["rebuilt", "two-stage"])
def test_groups_have_factors_of_their_own(way):
    nine = torch.arange(1.0, 10)
    factors = torch.stack([torch.diag(torch.tensor([1.0, 2, 3])), torch.tensor([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])])
    layer = filled(
        ConvSizes.of(nn.Conv2d(2, 2, 3, padding=1, bias=False)),
        torch.stack([nine, nine.flip(0)]).reshape(1, 2, 3, 3),
        factors[:, None],
        [0, 0],
        groups=2,
    )
    form = layer if way == "rebuilt" else layer.alternatives()["two stages"]
    x = torch.stack([torch.arange(9.0), torch.ones(9)]).reshape(1, 2, 3, 3).double()
    y = form(x)[0]
    expected = [[[78, 136, 98], [180, 285, 192], [114, 172, 110]], [[103, 143, 18], [221, 261, 49], [62, 75, 79]]]
    torch.testing.assert_close(y, torch.tensor(expected).double())


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    groups=st.sampled_from([1, 2, 4]),
    share_groups=st.booleans(),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    sides=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    seed=st.integers(0, 2**31),
)
def test_both_ways_to_compute_agree_and_so_do_their_gradients(
    family, groups, share_groups, stride, padding, dilation, sides, seed
):
    generator = torch.Generator().manual_seed(seed)
    sizes = ConvSizes.of(nn.Conv2d(4, 7, 3, stride, padding, dilation))
    layer = TemplateConv(sizes, family=family, groups=groups, share_groups=share_groups, templates=3).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(2, 4, *sides, generator=generator, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    one, two = layer(a), layer.alternatives()["two stages"](b)
    torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)
    one.square().sum().backward()
    two.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-8, rtol=1e-8)


def test_moved_taps_read_between_the_pixels_of_the_latent_maps():
    generator = torch.Generator().manual_seed(3)
    theta = torch.tensor([[0.5, -0.4, 0.1], [0.3, 0.6, -0.05]], dtype=torch.float64)  # no tap leaves the kernel
    templates = torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64)
    sizes = ConvSizes.of(nn.Conv2d(2, 2, 3, padding=1, bias=False))
    layer = filled(sizes, templates, theta, [0, 0], family="affine-moved")
    x = torch.randn(1, 2, 8, 8, generator=generator, dtype=torch.float64)
    rows, columns = torch.meshgrid(*[torch.arange(8, dtype=torch.float64)] * 2, indexing="ij")
    expected = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    for tap in range(9):
        latent = torch.einsum("bchw,c->bhw", x, templates[0, :, tap // 3, tap % 3])[:, None]
        right, down = theta @ torch.tensor([tap % 3 - 1.0, tap // 3 - 1.0, 1.0], dtype=torch.float64)
        places = torch.stack([(columns + right) * 2 / 7 - 1, (rows + down) * 2 / 7 - 1], dim=-1)
        expected += F.grid_sample(latent, places[None], align_corners=True, padding_mode="zeros")
    torch.testing.assert_close(layer(x)[:, 1:], expected)


@pytest.mark.parametrize("way", ["rebuilt", "two-stage"])
def test_groups_that_share_slices_read_other_channels_with_the_same_numbers(way):
    factors = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slices = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sizes = ConvSizes.of(nn.Conv2d(4, 2, 3, bias=False))
    layer = TemplateConv(sizes, groups=2, share_groups=True, templates=1).double()
    with torch.no_grad():
        layer.weight.copy_(slices)
        layer.transformations.copy_(factors.flatten())
    form = layer if way == "rebuilt" else layer.alternatives()["two stages"]
    x = torch.randn(1, 4, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = form(x)
    torch.testing.assert_close(y[:, :1], F.conv2d(x[:, :2] + x[:, 2:], slices))
    torch.testing.assert_close(
        y[:, 1:], F.conv2d(x[:, :2], slices * factors[0]) + F.conv2d(x[:, 2:], slices * factors[1])
    )


def test_groups_that_share_slices_start_from_the_mean_of_each_filter_over_them():
    model = network()
    layers = rebuilding(model[2:], groups=4, share_groups=True, places=(0,))
    means = model[2].weight.reshape(12, 4, 4, 3, 3).mean(1)
    torch.testing.assert_close(layers[0].weight, means)
    torch.testing.assert_close(layers[0].filters(), means.repeat(1, 4, 1, 1))
    assert isinstance(layers[0].weight, nn.Parameter)
    assert model[2].weight.shape == (12, 16, 3, 3)


@pytest.mark.parametrize(("kind", "shape"), [(nn.Conv1d, (2, 4, 11)), (nn.Conv3d, (2, 4, 5, 6, 7))])
def test_one_and_three_dimensions_come_for_free(kind, shape):
    layer = TemplateConv(ConvSizes.of(kind(4, 6, 3, stride=2, padding=1)), groups=2, templates=2).double()
    with torch.no_grad():
        layer.transformations.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.alternatives()["two stages"](x))


def network() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1, bias=False)).eval()


def rebuilding(model: nn.Sequential, **how) -> nn.Sequential:
    """The same with both convolutions as layers that are pruned together."""
    swapped = copy.deepcopy(model)
    for place in how.pop("places", (0, 2)):
        own = {name: how[name] for name in ("family", "groups", "share_groups") if name in how}
        settings_ = {name: value for name, value in how.items() if name not in own}
        layer = TemplateConv(
            ConvSizes.of(model[place]),
            **own,
            rebuilding=Rebuilding(**({"keep": 0.5, "least": 2} | settings_)),
        )
        layer.take_over(swapped[place])
        swapped[place] = layer
    return swapped.eval()


def anneal_(model: nn.Sequential, progress: float) -> None:
    TemplateConv.anneal_together_([model[0], model[2]], progress)


def test_with_every_filter_a_template_the_output_is_bit_for_bit_that_of_the_network():
    model, x = network(), torch.randn(2, 3, 8, 8)
    assert torch.equal(rebuilding(model)(x), model(x))


@pytest.mark.parametrize("keep", [1.0, 0.75, 0.4, 0.01])
def test_the_schedule_ends_at_the_asked_fraction_or_at_the_least(keep):
    model = rebuilding(network(), keep=keep, least=3, stages=7)
    counts = []
    for step in range(15):
        anneal_(model, step / 14)
        counts.append(sum(len(layer.pruned) for layer in (model[0], model[2])))
    assert counts == sorted(counts)
    assert counts[-1] == min(round(28 * (1 - keep)), 28 - 2 * 3)
    assert min(layer.sizes.outside - len(layer.pruned) for layer in (model[0], model[2])) >= 3


def test_filters_with_least_weight_go_first_and_never_return():
    model = network()
    with torch.no_grad():
        model[2].weight[4:] *= 0.01
    layers = rebuilding(model, keep=20 / 28, saliency="raw", stages=4)
    before: set[int] = set()
    for step in range(1, 5):
        anneal_(layers, step / 4)
        assert before <= layers[2].pruned
        before = layers[2].pruned
    assert before == set(range(4, 12))
    assert not layers[0].pruned


def test_the_best_factors_start_nearer_to_the_filter_than_nothing_does():
    model = network()
    layers = rebuilding(model, keep=0.5, stages=1)
    anneal_(layers, 1)
    for place in (0, 2):
        pruned = sorted(layers[place].pruned)
        assert pruned
        wanted, found = model[place].weight[pruned], layers[place].filters()[pruned]
        assert (found - wanted).square().sum() < wanted.square().sum()


def test_an_optimizer_keeps_what_it_knows_of_templates_and_trains_on_through_the_stages():
    torch.manual_seed(0)
    layers = rebuilding(network(), keep=0.5, stages=4).train()
    parameters = dict(layers.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3, momentum=0.9)
    for step in range(4):
        optimizer.zero_grad()
        layers(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        before = {name: optimizer.state[each]["momentum_buffer"].clone() for name, each in parameters.items()}
        anneal_(layers, (step + 1) / 4)
        assert all(now is parameters[name] for name, now in layers.named_parameters())
        for name, each in parameters.items():
            assert torch.equal(optimizer.state[each]["momentum_buffer"], before[name])
    for place in (0, 2):
        kept = [n for n in range(layers[place].sizes.outside) if n not in layers[place].pruned]
        optimizer.zero_grad()
        layers(torch.randn(2, 3, 8, 8)).square().mean().backward()
        gradient = parameters[f"{place}.weight"].grad
        assert gradient[kept].flatten(1).any(1).all()
        assert not gradient[sorted(layers[place].pruned)].any()  # what is out of use does not train
        assert parameters[f"{place}.transformations"].grad.any()


def test_factors_of_zero_are_filter_pruning():
    layers = rebuilding(network(), keep=0.5, stages=1)
    anneal_(layers, 1)
    layer = layers[2]
    with torch.no_grad():
        layer.transformations.zero_()
    y = layer(torch.randn(1, 16, 6, 6))
    assert not y[:, sorted(layer.pruned)].any()
    assert y[:, [n for n in range(12) if n not in layer.pruned]].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", ["lstsq", "ones", "outputs"])
@pytest.mark.parametrize("assign", ["modulo", "cosine", "random", "outputs"])
@pytest.mark.parametrize("share_groups", [False, True])
def test_what_a_file_holds_computes_the_same(family, start, assign, share_groups):
    how = {"groups": 2, "share_groups": True, "places": (2,)} if share_groups else {"groups": 1}
    layers = rebuilding(network(), family=family, start=start, assign=assign, stages=3, **how)
    for progress in (0.5, 1):
        TemplateConv.anneal_together_([each for each in layers if isinstance(each, TemplateConv)], progress)
    layer = layers[2]
    assert layer.pruned
    x = torch.randn(2, 16, 6, 6)
    small = layer.stored()
    assert len(small.weight) == 12 - len(layer.pruned)
    assert torch.equal(small(x), layer(x))
    torch.testing.assert_close(layer.finalized()(x), layer(x))
    torch.testing.assert_close(layer.alternatives()["two stages"](x), layer(x), atol=1e-5, rtol=1e-4)


def test_gradients_reach_templates_and_the_transformations_in_use():
    layers = rebuilding(network(), stages=1).train()
    anneal_(layers, 1)
    layers(torch.randn(2, 3, 6, 6)).square().sum().backward()
    layer = layers[2]
    reached = layer.transformations.grad.view(12, -1).abs().sum(1) > 0
    assert set(reached.nonzero()[:, 0].tolist()) == layer.pruned
    rows = layer.weight.grad.flatten(1).abs().sum(1) > 0
    assert set(rows.nonzero()[:, 0].tolist()) == set(range(12)) - layer.pruned


def test_taylor_ranks_by_what_the_loss_feels():
    layers = rebuilding(network(), saliency="taylor", keep=20 / 28, stages=1).train()
    for _ in range(2):
        y = layers(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)))
        y[:, :4].square().sum().backward()  # the other eight outputs do not matter
    anneal_(layers, 1)
    assert layers[2].pruned == set(range(4, 12))
    assert not layers[0].pruned


def test_an_earlier_or_the_same_progress_changes_nothing():
    layers = rebuilding(network(), stages=5)
    anneal_(layers, 0.6)
    before = copy.deepcopy(layers.state_dict())
    for progress in (0.6, 0.2, 0.41):
        anneal_(layers, progress)
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


def test_templates_are_taken_in_turn():
    found = assigned(torch.ones(7, 1), {0, 2, 3, 6}, "modulo", generator=torch.Generator())
    assert found[[0, 2, 3, 6]].tolist() == [1, 4, 5, 1]


def test_where_a_layer_is_at_its_least_the_next_lowest_elsewhere_go():
    found = chosen([torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0])], [set(), set()], 3, 1)
    assert found == [{0, 1}, {0}]
    assert chosen([torch.tensor([0.1, 0.2])], [set()], 2, 1) == [{0}]


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ({"groups": 3}, "groups must divide the 4 input channels, got 3"),
        ({"templates": 0}, r"templates must be a whole number in \[1, 6\]"),
        ({"templates": 7}, r"templates must be a whole number in \[1, 6\]"),
        ({"family": "shear"}, "family must be one of scalar, rotation, affine, affine-moved, matrix"),
        ({"templates": 2, "rebuilding": Rebuilding(keep=0.5)}, "all while rebuilding, got 2"),
    ],
)
def test_sizes_out_of_range_are_refused(what, match):
    with pytest.raises(ValueError, match=match):
        TemplateConv(ConvSizes.of(nn.Conv2d(4, 6, 3)), **what)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ({"keep": 0}, r"keep must lie in \(0, 1\], got 0"),
        ({"keep": 0.5, "least": 0}, "least must be a whole number of at least 1"),
        ({"keep": 0.5, "saliency": "loud"}, "saliency must be one of magnitude, raw, taylor, got 'loud'"),
    ],
)
def test_settings_out_of_range_are_refused(what, match):
    with pytest.raises(ValueError, match=match):
        Rebuilding(**what)


def test_a_module_of_other_sizes_is_not_taken_over():
    layer = TemplateConv(ConvSizes.of(nn.Conv2d(4, 6, 3)))
    for host, match in (
        (nn.Conv2d(4, 6, 5), "with sizes 4, 6, kernel=\\(3, 3\\), found 4, 6, kernel=\\(5, 5\\)"),
        (nn.Conv2d(4, 6, 3, groups=2), "found that it has 2 groups"),
        (nn.Linear(4, 6), "found Linear"),
    ):
        with pytest.raises(ValueError, match=match):
            layer.take_over(host)


def test_a_stride_reads_what_the_convolution_reads():
    sizes = ConvSizes.of(nn.Conv2d(1, 1, (3, 2), stride=(2, 1), dilation=(1, 2)))
    x = torch.arange(70.0).reshape(1, 1, 7, 10)
    weight = torch.zeros(1, 1, 3, 2)
    weight[0, 0, 2, 1] = 1
    expected = F.conv2d(x, weight, stride=(2, 1), dilation=(1, 2))[0, 0]
    left, places = sizes.reads((7, 10))
    assert expected.shape == left
    assert torch.equal(x[0, 0][places[5]], expected)
