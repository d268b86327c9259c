"""The linear streams of a network are those that pointwise convolutions write and read with nothing but sums and norms between."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from spectrim.errors import UnsupportedError
from spectrim.surgery.linearity import streams

IMAGE = torch.zeros(1, 3, 64, 64)


def numbers(found, part):
    """The numbers of the blocks in torchvision's names, counted from the first bottleneck."""
    return [[int(name.split(".")[1]) - 1 for name in getattr(stream, part)] for stream in found]


def test_mobilenetv2_has_the_streams_that_its_blocks_make():
    found = streams(torchvision.models.mobilenet_v2(), [IMAGE])
    assert numbers(found, "writers") == [[0], [1, 2], [3, 4, 5], [6, 7, 8, 9], [10, 11, 12], [13, 14, 15], [16]]
    assert numbers(found, "readers") == [[1], [2, 3], [4, 5, 6], [7, 8, 9, 10], [11, 12, 13], [14, 15, 16], [17]]
    assert all(len(stream.norms) == len(stream.writers) and not stream.others for stream in found)


def test_the_same_network_of_another_library_has_as_many():
    found = streams(timm.create_model("mobilenetv2_100"), [IMAGE])
    assert [len(stream.readers) for stream in found] == [1, 2, 3, 4, 3, 3, 1]


def test_squeezing_inside_a_block_leaves_the_stream_around_it_linear():
    found = streams(torchvision.models.efficientnet_b0(), [IMAGE])
    assert [len(stream.readers) for stream in found] == [1, 2, 2, 3, 3, 4, 1]
    assert not any(".fc" in name for stream in found for name in (*stream.writers, *stream.readers))


def test_a_stream_that_starts_behind_an_activation_is_none():
    found = streams(torchvision.models.mobilenet_v3_large(), [IMAGE])
    assert "features.1.block.1.0" not in {name for stream in found for name in stream.writers}
    assert [len(stream.readers) for stream in found] == [2, 3, 4, 2, 3]


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "densenet121"])
def test_where_activations_or_kernels_come_between_there_is_none(name):
    assert streams(getattr(torchvision.models, name)(), [IMAGE]) == []


class Leaky(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.project, self.expand = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.what = what

    def forward(self, x):
        y = self.project(x)
        return self.expand(self.what(y))


@pytest.mark.parametrize(
    "what", [torch.relu, torch.relu_, lambda y: y * 2 + 1, lambda y: y + y.mean(), lambda y: y.flip(-1), nn.ReLU(True)]
)
def test_what_is_not_a_sum_ends_a_stream(what):
    assert streams(Leaky(what), [torch.rand(1, 8, 4, 4)]) == []


def test_sums_identities_and_dropout_do_not():
    for what in (
        nn.Identity(),
        nn.Dropout(0.5),
        lambda y: y + y,
        lambda y: y.add_(y),
        lambda y: y.clone().contiguous(),
    ):
        (found,) = streams(Leaky(what), [torch.rand(1, 8, 4, 4)])
        assert (found.writers, found.readers, found.others) == (("project",), ("expand",), ())


def test_what_else_looks_at_a_stream_is_named():
    class Watched(Leaky):
        def forward(self, x):
            y = self.project(x)
            return self.expand(y).relu(), y, y.amax()

    (found,) = streams(Watched(None), [torch.rand(1, 8, 4, 4)])
    assert found.others == ("amax", "the output of the model")


def test_the_model_is_as_it_was():
    model = torchvision.models.mobilenet_v2().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    streams(model, [IMAGE])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_forward_that_fails_says_so():
    with pytest.raises(UnsupportedError, match=r"linear streams of Conv2d.*Check the shape"):
        streams(nn.Conv2d(3, 4, 1), [torch.zeros(1, 5, 4, 4)])
