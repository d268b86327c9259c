"""Which channels go together, and which stay: what one look at the forward finds."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrim import UnsupportedError
from spectrim.surgery.channels import cut, groups
from spectrim.surgery.trial import not_followed
from spectrim.zoo.resnet_cifar import resnet20
from tests.surgery.cutting import assert_equal_to_the_silenced, settled, small


class Gated(nn.Module):
    """Halves of a convolution's channels are multiplied; a scale along the channels of a module of its own."""

    class Scale(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.gamma = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
            self.shift = nn.Parameter(torch.rand(1, channels, 1, 1))

        def forward(self, x):
            return x * self.gamma + self.shift

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 3, padding=1)
        self.scale = self.Scale(8)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        one, other = self.wide(x).chunk(2, dim=1)
        return self.out(self.scale(one * other.sigmoid()))


class Shuffled(nn.Module):
    """One half of the channels passes, the other is worked on; then the halves are shuffled."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.side = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        one, other = self.stem(x).chunk(2, dim=1)
        x = torch.cat([one, self.side(other)], 1)
        n, c, h, w = x.shape
        return self.out(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).relu())


class Grouped(nn.Module):
    """A group normalisation loses whole groups."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.GroupNorm(4, 12)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return self.out(self.norm(self.one(x)).relu())


@pytest.mark.parametrize(
    ("make", "expected", "gone"),
    [
        (Gated, {"wide": (16, 8)}, 3),
        (Shuffled, {"stem": (16, 8)}, 3),
        (Grouped, {"one": (12, 4)}, 1),
    ],
)
def test_channels_go_as_the_forward_lays_them_out(make, expected, gone):
    torch.manual_seed(0)
    model = settled(make(), x := torch.randn(2, 3, 8, 8, dtype=torch.float64))
    found, _ = groups(model, [x[:1]])
    assert {group.path: (group.width, len(group.units)) for group in found} == expected
    edits = tuple(cut(model, group, list(range(gone))) for group in found)
    assert not_followed(model, edits, [x]) == {}
    assert_equal_to_the_silenced(model, edits, x)


class Padded(nn.Module):
    """A shortcut padded by fixed amounts, as users write option A."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.two = nn.Conv2d(6, 10, 3, padding=1)
        self.three = nn.Conv2d(10, 4, 1)

    def forward(self, x):
        x = F.relu(self.one(x))
        return self.three(F.relu(self.two(x) + F.pad(x, (0, 0, 0, 0, 2, 2))))


def test_behind_a_padded_shortcut_the_channels_that_meet_go_together():
    torch.manual_seed(0)
    model = settled(Padded(), x := torch.randn(2, 3, 8, 8, dtype=torch.float64))
    found, left = groups(model, [x])
    assert [(group.path, group.writers, len(group.units)) for group in found] == [("one", ("one", "two"), 6)]
    assert found[0].units[1]["two.weight", 0] == (3,)
    assert found[0].locked == (4, "meets a tensor of fixed size in add")
    assert [each.path for each in left] == ["three"]
    assert_equal_to_the_silenced(model, (cut(model, found[0], [0, 4]),), x)
    assert (model.one.out_channels, model.two.out_channels) == (4, 8)


def test_a_flattened_map_and_a_tied_weight_follow():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.fc = nn.Linear(6 * 16, 10)
            self.tied = nn.Linear(6 * 16, 10)
            self.tied.weight = self.fc.weight

        def forward(self, x):
            x = torch.tanh(self.conv(x)).flatten(1)
            return self.fc(x) + self.tied(x)

    torch.manual_seed(0)
    model = settled(Net(), x := torch.randn(2, 3, 4, 4, dtype=torch.float64))
    found, _ = groups(model, [x])
    assert found[0].units[1]["fc.weight", 1] == tuple(range(16, 32))
    assert_equal_to_the_silenced(model, (cut(model, found[0], [0, 1, 4]),), x)
    assert model.fc.weight is model.tied.weight
    assert (model.fc.in_features, model.tied.in_features) == (48, 48)


def test_a_cut_resnet_keeps_its_stages_apart():
    model = resnet20()
    found, _ = groups(model, [torch.zeros(1, 3, 32, 32)])
    stages = {group.path: group.writers for group in found if len(group.writers) > 1}
    assert stages == {
        f"layer{n}.0.conv2": (f"layer{n}.0.conv2", f"layer{n}.0.shortcut", f"layer{n}.1.conv2", f"layer{n}.2.conv2")
        for n in (1, 2, 3)
    }


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: x.mean((2, 3)).sort().values, "an order runs over the channels"),
        (lambda x: x.mean((2, 3)).topk(3).values, "an order runs over the channels"),
        (lambda x: x.topk(2, 1).values.mean((1, 2, 3)), "an order runs over the channels"),
        (lambda x: x.topk(2).values.mean((1, 2, 3)), "mean runs over the channels"),
        (lambda x: torch.corrcoef(x[0, :, 0]), "is not understood"),
    ],
)
def test_orders_and_what_makes_no_tensor_lock_and_do_not_fail(operation, reason):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)

        def forward(self, x):
            x = self.one(x)
            return self.two(x), operation(x)

    found, left = groups(Net(), [torch.randn(1, 3, 8, 8)])
    assert found == []
    assert reason in {each.path: each.reason for each in left}["one"]


@dataclass
class Answer:
    logits: torch.Tensor
    features: torch.Tensor


class Answering(nn.Module):
    """Returns an object that torch does not see into, and what is large beside what is small."""

    def __init__(self, seen):
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2)
        self.seen = seen

    def forward(self, x):
        features = self.two(F.relu(self.one(x)))
        logits = self.fc(F.relu(features).mean((2, 3)))
        return Answer(logits, features) if self.seen else object()


def test_what_an_object_holds_is_an_output_too():
    found, left = groups(Answering(seen=True), [torch.zeros(1, 3, 8, 8)])
    assert [group.path for group in found] == ["one"]
    assert [(each.path, each.reason) for each in left] == [
        (path, "is the output of the model") for path in ("two", "fc")
    ]


def test_a_forward_without_a_tensor_in_its_output_is_refused():
    with pytest.raises(UnsupportedError, match="returned a object with no tensor in it"):
        groups(Answering(seen=False), [torch.zeros(1, 3, 8, 8)])


def test_a_forward_that_fails_is_named():
    with pytest.raises(UnsupportedError, match=r"follow the channels of Sequential .* Check the shape"):
        groups(small(), [torch.zeros(1, 5, 8, 8)])
