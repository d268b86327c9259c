"""Layers whose forward does not follow a cut are found on a copy, all in one pass."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from spectrim.surgery.channels import cut, groups
from spectrim.surgery.trial import not_followed
from tests.surgery.cutting import assert_equal_to_the_silenced, half, settled


class Stubborn(nn.Module):
    """One layer is reshaped by a number that is written down, another is normalised over its channels."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(1, 8)
        self.three = nn.Conv2d(8, 8, 1)
        self.never = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.one(x))
        x = x.view(-1, 8, x.shape[2], x.shape[3])
        x = F.relu(self.norm(self.two(x)))
        return self.fc(F.relu(self.three(x)).mean((2, 3)))


def test_what_cannot_follow_is_left_alone_by_name_and_the_rest_is_cut():
    torch.manual_seed(0)
    model = settled(Stubborn(), x := torch.randn(2, 3, 8, 8, dtype=torch.float64))
    found, left = groups(model, [x[:1]])
    assert [group.path for group in found] == ["one", "three"]
    reasons = {each.path: each.reason for each in left}
    assert "group normalisation averages over the channels" in reasons["two"]
    assert reasons["never"] == "was not used for the calibration batch"
    assert reasons["fc"] == "is the output of the model"
    edits = half(model, found)
    blamed = not_followed(model, edits, [x])
    assert list(blamed) == ["one"]
    assert blamed["one"].startswith("the forward has sizes of its own and fails when it is cut (Given groups=1")
    assert_equal_to_the_silenced(model, edits[1:], x)


class Block(nn.Module):
    """Knows the width of its inside."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x, *, add):
        x.add_(add)  # writes into what it was given
        return x + self.down(F.relu(self.up(x)).view(len(x), 8, *x.shape[2:]))


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList([Block() for _ in range(6)])
        self.free = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.fc = nn.Linear(4, 2)
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, add=0.1)
        return self.fc((x + self.free(x)).mean((2, 3)))


def test_blocks_that_fail_by_themselves_are_all_found_in_one_pass():
    torch.manual_seed(0)
    model = settled(Blocks(), x := torch.randn(2, 3, 8, 8, dtype=torch.float64))
    found, _ = groups(model, [x[:1]])
    edits = half(model, [group for group in found if group.path != "stem"])
    state = copy.deepcopy(model.state_dict())
    before = model.runs
    counted = []
    model.register_forward_hook(lambda *_: counted.append(1))  # a copy keeps the hook, and the list with it
    blamed = not_followed(model, edits, [x])
    assert list(blamed) == [f"blocks.{n}.up" for n in range(6)]
    assert all("fails when it is cut (shape '[2, 8, 6, 6]' is invalid" in reason for reason in blamed.values())
    assert model.runs == before
    assert len(counted) <= 6
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert_equal_to_the_silenced(model, [edit for edit in edits if edit.path == "free.0"], x)


class Headed(nn.Module):
    """Has a head that is in use in training alone."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(8, 2)
        self.aux = nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.one(x)))
        y = self.fc(self.drop(F.relu(self.two(x)).mean((2, 3))))
        return (y, self.aux(x.mean((2, 3)))) if self.training else y


def test_a_layer_that_is_read_in_training_alone_stays_as_wide_as_its_reader():
    torch.manual_seed(0)
    model = settled(Headed(), x := torch.randn(2, 3, 8, 8, dtype=torch.float64))
    found, left = groups(model, [x[:1]])
    assert {each.path: each.reason for each in left}["aux"] == "was not used for the calibration batch"
    edits = half(model, found)
    assert [edit.path for edit in edits] == ["one", "two"]
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    blamed = not_followed(model, edits, [x])
    assert list(blamed) == ["one"]
    assert blamed["one"].startswith("the forward of training fails when it is cut (")
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert_equal_to_the_silenced(model, edits[1:], x)
    assert len(model.train()(x)) == 2


class Uneven(nn.Module):
    """A large output that follows a cut, and a small one that does not: it takes the first four of its channels."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = F.relu(self.one(x))
        return 1e6 * self.two(x), self.three(torch.cat([x[:, :4], 0 * x[:, 4:]], 1))


def test_a_small_output_beside_a_large_one_has_to_be_right_too():
    torch.manual_seed(0)
    model, x = Uneven().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found, _ = groups(model, [x[:1]])
    blamed = not_followed(model, [cut(model, found[0], [0, 1])], [x])
    assert blamed == {"one": "the forward has sizes of its own and computes something else when it is cut"}
