"""Cutting channels: the cut network computes what the whole one does when nothing reads the channels that go."""

import copy
import json
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from spectrim import FrequencyRegularization, OrderError, Plan, PlanError, UnsupportedError, compress_
from spectrim.nn.channel_map import ChannelMap
from spectrim.surgery import PruneChannels
from spectrim.surgery.channels import cut, groups
from spectrim.surgery.layers import rule_of
from spectrim.surgery.prune import Cut, silenced
from spectrim.surgery.trial import not_followed
from spectrim.zoo.densenet import densenet40
from spectrim.zoo.googlenet import googlenet
from spectrim.zoo.resnet_cifar import resnet20, resnet56
from spectrim.zoo.vgg import vgg16_bn


def settled(model, x):
    """Statistics of its own in every norm, so that a wrong channel shows; everything in float64."""
    model.double().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)
        model(x)
    return model.eval()


def half(model, found, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        cut(model, group, torch.randperm(len(group.units), generator=generator)[: len(group.units) // 2].tolist())
        for group in found
        if len(group.units) > 1
    )


def assert_equal_to_the_silenced(model, edits, x):
    """The oracle; returns how many parameters are left."""
    whole = copy.deepcopy(model)
    tensors = dict(whole.named_parameters(remove_duplicate=False)) | dict(whole.named_buffers())
    with torch.no_grad():
        for name, value in silenced(whole, edits).items():
            tensors[name].data.copy_(value)
        expected = whole(x)
        Plan("test", "", edits).apply_(model)
        found = model(x)
    scale = float(expected.abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-9 * scale, rtol=1e-9)
    return sum(p.numel() for p in model.parameters())


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip that is concatenated."""

    def __init__(self):
        super().__init__()
        self.inc = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8))
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 12, 2, 2)
        self.mix = nn.Conv2d(20, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.inc(x)
        y = F.relu(self.up(F.relu(self.down(x))))
        return self.out(F.relu(self.mix(torch.cat([y, x], 1))))


# network, image side, how many groups of channels are cut, share of the parameters that stays
NETWORKS = {
    "resnet56": (resnet56, 32, 31, 0.27),
    "vgg16_bn": (vgg16_bn, 32, 14, 0.27),
    "googlenet": (googlenet, 32, 64, 0.28),
    "densenet40": (densenet40, 32, 39, 0.27),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 32, 12, 0.27),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=10), 32, 37, 0.27),
    "resnext50": (lambda: torchvision.models.resnext50_32x4d(num_classes=10), 32, 21, 0.27),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 32, 25, 0.26),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=10), 32, 40, 0.27),
    "convnext_atto": (lambda: timm.create_model("convnext_atto", num_classes=10), 32, 12, 0.56),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10), 32, 24, 0.57),
    "unet": (UNet, 32, 4, 0.27),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_network_is_the_whole_one_with_the_removed_channels_silenced(name):
    make, side, count, share = NETWORKS[name]
    torch.manual_seed(1)
    x = torch.randn(3, 3, side, side, dtype=torch.float64)
    model = settled(make(), x)
    before = sum(p.numel() for p in model.parameters())
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found, left = groups(model, [x[:1]])
    edits = half(model, found)
    assert not_followed(model, edits, [x[:2]]) == {}
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    after = assert_equal_to_the_silenced(model, edits, x)
    assert len(edits) == count
    assert after / before == pytest.approx(share, abs=0.03)
    assert all(each.reason for each in left)
    writers = {path for group in found for path in group.writers} | {each.path for each in left}
    layers = {path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert layers <= writers


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


def vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, depth=2)


def test_attention_loses_whole_heads_and_counts_them():
    torch.manual_seed(0)
    model = settled(vit(), x := torch.randn(2, 3, 32, 32, dtype=torch.float64))
    found, _ = groups(model, [x[:1]])
    heads = [group for group in found if group.path.endswith("qkv")]
    assert [(group.width, len(group.units)) for group in heads] == [(3 * 192, 3)] * 2
    edit = cut(model, heads[0], [1])
    attention = model.blocks[0].attn
    undo = edit.prepare(model)()
    assert (attention.num_heads, attention.attn_dim) == (2, 128)
    undo()
    assert (attention.num_heads, attention.attn_dim) == (3, 192)
    assert_equal_to_the_silenced(model, (edit,), x)
    assert (attention.num_heads, attention.attn_dim) == (2, 128)
    assert model.blocks[1].attn.num_heads == 3


def test_a_part_of_a_head_does_not_go():
    model = vit()
    rows = PruneChannels("blocks.0.attn.qkv", (5,), 576, (Cut((5,), (("blocks.0.attn.qkv.weight", 0, (576, 192)),
                                                                   ("blocks.0.attn.qkv.bias", 0, (576,)))),))  # fmt: skip
    with pytest.raises(PlanError, match=r"planned to cut 'blocks\.0\.attn', found that what is left is no Attention"):
        rows.prepare(model)


def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def one_cut(model, gone=(1, 2)):
    found, _ = groups(model, [torch.zeros(1, 3, 8, 8)])
    return cut(model, found[0], gone)


def test_what_survives_is_copied_exactly():
    model = small()
    before = copy.deepcopy(model)
    Plan("test", "", (one_cut(model, [0, 5]),)).apply_(model)
    stays = [1, 2, 3, 4, 6, 7]
    for name, dim in (("0.weight", 0), ("0.bias", 0), ("1.weight", 0), ("1.running_var", 0), ("3.weight", 1)):
        assert torch.equal(model.state_dict()[name], before.state_dict()[name].index_select(dim, torch.tensor(stays)))
    assert (model[0].out_channels, model[1].num_features, model[3].in_channels) == (6, 6, 6)
    assert torch.equal(model[3].bias, before[3].bias)
    assert repr(model[0]).startswith("Conv2d(3, 6,")


def test_a_cut_is_undone_to_the_bit():
    model = small()
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    tensors = {name: (t, t.data_ptr(), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    grads = [p.grad for p in model.parameters()]
    undo = one_cut(model).prepare(model)()
    assert model[0].weight.shape[0] == 6
    undo()
    for name, tensor in model.state_dict(keep_vars=True).items():
        same, place, value = tensors[name]
        assert tensor is same
        assert tensor.data_ptr() == place
        assert torch.equal(tensor, value)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert (model[0].out_channels, model[1].num_features, model[3].in_channels) == (8, 8, 8)


def test_a_plan_of_cuts_survives_json():
    model = resnet20()
    found, _ = groups(model, [torch.zeros(1, 3, 32, 32)])
    plan = Plan("test", "", half(model, found))
    again = Plan.from_json(plan.to_json())
    assert again == plan
    x = torch.randn(1, 3, 32, 32)
    one, other = plan.apply_(copy.deepcopy(model)).eval(), again.apply_(copy.deepcopy(model)).eval()
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("cuts", ["x", [[[0], [["0.weight", "0", [8]]]]], [[[-1], []]], [[[0]]], 3])
def test_a_malformed_cut_is_refused(cuts):
    text = Plan("test", "", (one_cut(small()),)).to_json()
    document = json.loads(text)
    document["edits"][0]["cuts"] = cuts
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.__setitem__(3, nn.Conv2d(9, 4, 1)),
            r"planned for '3\.weight' of shape \(4, 8, 1, 1\), found \(4, 9,",
        ),
        (lambda m: m.__setitem__(1, nn.Identity()), r"'1\.weight', found it in a Identity, which is not cut"),
        (lambda m: m.__delitem__(3), r"planned for '3', which Sequential does not have"),
        (lambda m: m[0].register_parameter("bias", None), r"'0\.bias', found no such plain tensor"),
        (lambda m: nn.utils.parametrizations.weight_norm(m[3]), r"'3\.weight', found no such plain tensor"),
    ],
)
def test_a_cut_planned_for_another_model_changes_nothing(change, message):
    edit, model = one_cut(small()), small()
    change(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PlanError, match=message):
        Plan("test", "", (edit,)).apply_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_is_cut_away_whole():
    model = small()
    edit = one_cut(model, range(8))
    with pytest.raises(PlanError, match=r"what is left is no Conv2d"):
        edit.prepare(model)


def test_a_coded_model_is_not_cut():
    model = small()
    edit = one_cut(model)
    compress_(model, FrequencyRegularization(keep=0.5), where="3")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(OrderError, match=r"1 tensors are already coded \(first: '3\.weight', spectral\)\. Cut first"):
        Plan("test", "", (edit,)).apply_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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


def test_a_channel_map_is_cut_on_both_sides():
    layer = ChannelMap.padded(4, 6)
    rule = rule_of(layer)
    assert layer.source.tolist() == [-1, 0, 1, 2, 3, -1]
    read = rule.cut(layer.source, 1, [1])
    assert read.tolist() == [-1, 0, -1, 1, 2, -1]
    assert rule.cut(read, 0, [0, 3]).tolist() == [0, -1, 2, -1]
    assert rule.silenced(layer.source, 1, [1]).tolist() == [-1, 0, -1, 2, 3, -1]


def test_a_forward_that_fails_is_named():
    with pytest.raises(UnsupportedError, match=r"follow the channels of Sequential .* Check the shape"):
        groups(small(), [torch.zeros(1, 5, 8, 8)])


def test_the_edit_prints_what_stays():
    assert str(Plan("m", "n", (one_cut(small()),))).splitlines()[1].split() == ["0", "keep", "6", "of", "8", "channels"]
    assert isinstance(one_cut(small()), PruneChannels)
