"""What a layer reads and writes, as rows; and the fit to them, against torch's own least squares."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrim.repair.calls import Calls, layers_of
from spectrim.repair.fitting import grouped, ungrouped
from spectrim.repair.ridge import refit, refit_wide
from spectrim.repair.rows import places, read, written


class Same(nn.Conv2d):
    """Pads by itself, more on one side."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 2, 1, 3)), self.weight, self.bias, self.stride)


LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "linear on tokens": (nn.Linear(6, 4), (5, 7, 6)),
    "linear on maps": (nn.Linear(6, 4), (5, 3, 4, 6)),
    "1d": (nn.Conv1d(6, 4, 3, padding=1), (5, 6, 9)),
    "2d": (nn.Conv2d(6, 4, 3), (5, 6, 7, 8)),
    "pointwise": (nn.Conv2d(6, 4, 1, stride=2), (5, 6, 7, 8)),
    "stride, padding, dilation": (nn.Conv2d(6, 4, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(1, 2)), (5, 6, 9, 8)),
    "same": (nn.Conv2d(6, 4, (4, 3), padding="same", dilation=(1, 2)), (5, 6, 7, 8)),
    "valid": (nn.Conv2d(6, 4, 3, padding="valid"), (5, 6, 7, 8)),
    "reflecting": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (5, 6, 7, 8)),
    "own padding": (Same(6, 4, 3, stride=2), (5, 6, 7, 8)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (5, 6, 7, 8)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6, padding=1), (5, 6, 7, 8)),
    "3d": (nn.Conv3d(6, 4, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 0)), (3, 6, 4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1), (5, 6, 4, 5)),
    "transposed, odd": (nn.ConvTranspose2d(6, 4, 3, stride=(3, 2), padding=1, output_padding=(2, 1), dilation=(1, 2)), (5, 6, 4, 5)),
    "transposed, grouped": (nn.ConvTranspose1d(6, 4, 3, stride=2, groups=2), (5, 6, 7)),
}  # fmt: skip


class Rows(Calls):
    """Takes both sides of every call, at all places or a few of them."""

    def __init__(self, model, samples):
        super().__init__(model)
        self.samples = samples
        self.found = []

    def before(self, call):
        self.call = call

    def after(self, call, out):
        assert call is self.call
        size = tuple(out.shape[1:-1] if call.kind == "linear" else out.shape[2:])
        where = places(math.prod(size), len(out), self.samples)
        kernel = tuple(call.settings["weight"].shape[2:])
        self.found.append((call, read(call, kernel, size, where), written(call, out, where)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("samples", [10_000, 15])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_times_what_is_read_is_what_is_written(name, samples):
    layer, shape = LAYERS[name]
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad(), Rows(nn.Sequential(layer), samples) as watch:
        layer(x)
    ((call, inputs, outputs),) = watch.found
    assert call.path == "0"
    matrices = grouped(layer.weight, call)
    expected = torch.einsum("rgi,goi->rgo", inputs, matrices).flatten(1) + layer.bias
    torch.testing.assert_close(outputs, expected)
    assert torch.equal(ungrouped(matrices, layer.weight, call), layer.weight)
    if samples == 10_000 and "linear" not in name:
        assert len(outputs) == layer(x).numel() / layer(x).shape[1]


def test_places_are_even_and_differ_from_image_to_image():
    some = places(100, 50, samples=500)
    assert some.shape == (50, 10)
    assert all(len(set(row)) == 10 for row in some.tolist())
    assert set(some.flatten().tolist()) == set(range(100))
    assert sorted(places(7, 3)[2].tolist()) == list(range(7))
    assert places(1000, 100_000, samples=10).shape == (100_000, 1)


def rows(n=60, d=7, o=3, g=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, g, d, generator=generator, dtype=torch.float64) + 2
    return (
        x,
        torch.randn(n, g, o, generator=generator, dtype=torch.float64),
        torch.randn(g, o, d, generator=generator).double(),
    )


@pytest.mark.parametrize("solve", [refit, refit_wide])
@pytest.mark.parametrize("n", [60, 5])
def test_a_fit_is_that_of_lstsq_with_the_pull_as_more_rows(solve, n):
    x, y, prior = rows(n)
    for offset in (True, False):
        weight, shift = solve([(x[:2], y[:2]), (x[2:], y[2:])], prior, ridge=0.3, offset=offset)
        for group in range(2):
            a, b = x[:, group], y[:, group]
            if offset:
                a, b = a - a.mean(0), b - b.mean(0)
            pull = (0.3 * n * a.square().mean()).sqrt()
            more = torch.cat([a, pull * torch.eye(7).double()]), torch.cat([b, pull * prior[group].T])
            expected = torch.linalg.lstsq(*more).solution.T
            torch.testing.assert_close(weight[group], expected)
            constant = (y - torch.einsum("rgi,goi->rgo", x, weight)).mean(0)[group]
            torch.testing.assert_close(shift[group], constant if offset else torch.zeros(3).double())


def test_inputs_that_are_all_zero_leave_the_weights():
    x, y, prior = rows()
    weight, shift = refit([(0 * x, y)], prior, ridge=0.1, offset=True)
    torch.testing.assert_close(weight, prior)
    torch.testing.assert_close(shift, y.mean(0))


def test_only_the_layers_own_weights_are_seen():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight - self.weight.mean(), self.bias)

    model = nn.Sequential(Standardised(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(2, 2))
    with torch.no_grad(), Rows(model, 10) as watch:
        model(torch.randn(2, 3, 2, 2))
    assert [call.path for call, *_ in watch.found] == ["1", "2"]
    assert list(layers_of(model)) == ["0", "1", "2"]
