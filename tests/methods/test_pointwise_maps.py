"""A linear layer is cut where it reads maps, and not where four axes are something else."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock

import spectrim as st
from spectrim.methods.pointwise_maps import linear_layers_on_maps

METHOD = st.PointwisePruning(keep=0.5, pays="always")


def images(size=16):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Last(nn.Module):
    """Channels to the back."""

    def forward(self, x):
        return x.movedim(1, -1)


class Attention(nn.Module):
    """Over the pixels of a map, with a linear layer on the values of each head; as many heads as tokens along a side."""

    def __init__(self, heads=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, 4)
        self.heads = heads
        self.qkv, self.each, self.out = nn.Linear(32, 96), nn.Linear(32 // heads, 32 // heads), nn.Linear(32, 32)

    def forward(self, x):
        x = self.stem(x).movedim(1, -1)  # image, height, width, channel
        n, h, w, c = x.shape
        q, k, v = self.qkv(x).reshape(n, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = self.each((q @ k.mT).softmax(-1) @ v)  # image, head, token, number
        return self.out(y.transpose(1, 2).reshape(n, h, w, c)).mean((1, 2))


@pytest.mark.parametrize("heads", [4, 16])
def test_heads_and_tokens_are_no_map_although_the_layers_around_them_read_some(heads):
    """With 16 heads and 16 tokens not even the sizes differ."""
    plan = st.plan(Attention(heads).eval(), METHOD, calibration=images())
    assert [edit.path for edit in plan.edits] == ["qkv", "out"]
    reason = f"reads {heads} x 16 places that do not grow with the height and the width of the image: no map"
    assert [(row.site, row.reason) for row in plan.skipped] == [("each", reason)]


def test_rows_of_a_map_with_its_channels_in_front_are_no_map():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Linear(16, 16)).eval()
    found = linear_layers_on_maps(model, images())
    assert list(found) == ["1"]
    assert found["1"].startswith("reads 16 x 16 places that do not grow")


@pytest.mark.parametrize(
    ("block", "path"),
    [
        (lambda: CNBlock(32, layer_scale=1e-6, stochastic_depth_prob=0.0), "block.3"),
        (lambda: nn.Sequential(Last(), swin(shift=[0, 0])), "1.mlp.0"),
        (lambda: nn.Sequential(Last(), swin(shift=[2, 2])), "1.mlp.3"),
        (lambda: nn.Sequential(Last(), PatchMerging(32)), "1.reduction"),
    ],
    ids=["ConvNeXt", "Swin", "Swin, shifted", "Swin, merging"],
)
def test_blocks_of_torchvision_read_maps(block, path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), block()).eval()
    found = linear_layers_on_maps(model, images())
    assert found[f"1.{path}"] == ""
    assert set(found.values()) == {""}
    plan = st.plan(model, METHOD, calibration=images())
    assert f"1.{path}" in {edit.path for edit in plan.edits}


def swin(shift):
    return SwinTransformerBlock(32, 4, window_size=[4, 4], shift_size=shift)


def test_windows_and_their_pixels_are_no_map():
    """A MaxViT hands its linear layers (image, window, pixel, channel); it takes one size alone, and so nothing is known of them."""
    torch.manual_seed(0)
    model = MaxVit(
        input_size=(32, 32), stem_channels=16, partition_size=4, block_channels=[16], block_layers=[1], head_dim=8,
        stochastic_depth_prob=0.0, num_classes=4,
    ).eval()  # fmt: skip
    found = linear_layers_on_maps(model, images(32))
    assert len(found) == 8
    assert "" not in found.values()


def test_windows_are_no_map_where_any_size_runs():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(3, 5)

        def forward(self, x):
            n, c, h, w = x.shape
            return self.mix(x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 16, c))

    assert linear_layers_on_maps(Windows(), images())["mix"].startswith("reads 16 x 16 places that do not grow")


@pytest.mark.parametrize("behind", [True, False])
def test_of_a_network_that_takes_one_size_what_runs_before_it_fails_is_known(behind):
    """A classifier that counts the pixels fails behind the layer, a look at the size before it."""

    class Sized(nn.Sequential):
        def forward(self, x):
            assert behind or x.shape[-1] == x.shape[-2] == 16, "the size is another one"
            return super().forward(x)

    torch.manual_seed(0)
    model = Sized(Last(), nn.Linear(3, 8), nn.Flatten(), nn.Linear(8 * 256, 4)).eval()
    plan = st.plan(model, METHOD, calibration=images())
    assert [edit.path for edit in plan.edits] == (["1"] if behind else [])
    why = "cannot be told to read maps, because the network does not take images of twice the height or width"
    assert [(row.site, row.reason) for row in plan.skipped] == ([] if behind else [("1", why)])


def test_networks_without_such_layers_run_once_at_most():
    calls = []
    for model in (nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Sequential(nn.Flatten(), nn.Linear(768, 4))):
        model.register_forward_pre_hook(lambda *_: calls.append(1))
        assert linear_layers_on_maps(model, images()) == {}
    assert len(calls) == 1


def test_all_layers_of_a_convnext_are_still_cut():
    model = torchvision.models.ConvNeXt(
        [torchvision.models.convnext.CNBlockConfig(16, 32, 1), torchvision.models.convnext.CNBlockConfig(32, None, 1)],
        num_classes=4,
    ).eval()
    found = linear_layers_on_maps(model, images(32))
    assert list(found.values()) == ["", "", "", ""]
