"""A network with fewer channels loads into the architecture that has all of them; what no cut leaves is refused."""

import copy
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from spectrim import CFDP, ArtifactError, FrequencyRegularization, Plan, compress_, finalize_, load_, save
from spectrim.artifact import loading
from spectrim.surgery.channels import cut, groups
from spectrim.zoo.resnet_cifar import resnet20


def cut_half(model, x):
    found, _ = groups(model, [x])
    generator = torch.Generator().manual_seed(0)
    edits = tuple(
        cut(model, group, torch.randperm(len(group.units), generator=generator)[: len(group.units) // 2].tolist())
        for group in found
    )
    return Plan("test", "", edits).apply_(model)


def vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, depth=2)


def narrow(widths=(8, 16), classes=10):
    return nn.Sequential(
        nn.Conv2d(3, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU(),
        nn.Conv2d(widths[0], widths[1], 3, bias=False), nn.BatchNorm2d(widths[1]), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[1], classes),
    )  # fmt: skip


@pytest.mark.parametrize("norms", ["exact", "folded"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "make",
    [resnet20, lambda: torchvision.models.mobilenet_v2(num_classes=10), torchvision.models.resnext50_32x4d, vit],
    ids=["resnet20", "mobilenet_v2", "resnext50", "vit"],
)
def test_a_cut_network_loads_into_its_own_architecture(make, device, norms, tmp_path):
    x = torch.randn(2, 3, 32, 32)
    model = cut_half(make().eval(), x)
    save(model, tmp_path / "cut.safetensors", dtype=torch.float32, norms=norms)
    with torch.device(device):
        fresh = make()
    loaded = load_(fresh.eval(), tmp_path / "cut.safetensors")
    tolerance = 1e-5 if norms == "exact" else 1e-3
    torch.testing.assert_close(loaded(x), model(x), atol=tolerance, rtol=tolerance)
    assert repr(loaded) == repr(model)
    if norms == "exact":
        save(loaded, tmp_path / "again.safetensors", dtype=torch.float32)
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "cut.safetensors").read_bytes()


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("factored", [True, False])
def test_cut_then_coded_loads(decode, factored, tmp_path):
    x = torch.randn(2, 3, 32, 32)
    model = cut_half(resnet20().eval(), x)
    compress_(model, FrequencyRegularization(keep=0.3, schedule="at-once"))
    if factored:
        finalize_(model, example=x)
    save(model, tmp_path / "cut.safetensors", dtype=torch.float32)
    loaded = load_(resnet20().eval(), tmp_path / "cut.safetensors", decode=decode)
    torch.testing.assert_close(loaded(x), model(x), atol=1e-4, rtol=1e-4)


def test_a_network_that_cfdp_cut_loads_without_torch_pruning_and_without_images(tmp_path, monkeypatch):
    x = torch.randn(2, 3, 32, 32)
    model = compress_(resnet20().eval(), CFDP(keep=0.5), calibration=x)
    save(model, tmp_path / "cut.safetensors", dtype=torch.float32)
    for library in ("torch_pruning", "timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
    loaded = load_(resnet20().eval(), tmp_path / "cut.safetensors")
    assert torch.equal(loaded(torch.ones(1, 3, 32, 32)), model(torch.ones(1, 3, 32, 32)))


def test_a_loaded_cut_network_trains(tmp_path):
    x = torch.randn(2, 3, 32, 32)
    save(cut_half(resnet20(), x), tmp_path / "cut.safetensors")
    loaded = load_(resnet20(), tmp_path / "cut.safetensors")
    loaded(x).sum().backward()
    assert all(p.requires_grad and p.grad is not None and p.grad.shape == p.shape for p in loaded.parameters())


@pytest.mark.parametrize(
    ("saved", "model", "message"),
    [
        (narrow(classes=5), narrow(), r"'8\.weight' has the shape \[5, 16\] in the file and \[10, 16\] in the model"),
        (narrow((8, 16)), narrow((4, 16)), r"'0\.weight' has the shape \[8, 3, 3, 3\] in the file and \[4, 3, 3, 3\]"),
        (nn.Sequential(nn.Conv2d(3, 8, 1)), nn.Sequential(nn.Conv2d(3, 8, 3)), r"\[8, 3, 1, 1\] in the file and"),
        (nn.Sequential(nn.LayerNorm(4)), nn.Sequential(nn.LayerNorm(8)), r"\[4\] in the file and \[8\] in the model"),
        (nn.Sequential(nn.Conv2d(4, 8, 1, groups=2)), nn.Sequential(nn.Conv2d(8, 8, 1, groups=2)), r"\[8, 2, 1, 1\]"),
        (nn.Sequential(nn.Embedding(9, 4)), nn.Sequential(nn.Embedding(9, 8)), r"\[9, 4\] in the file and \[9, 8\]"),
    ],
)
def test_what_no_cut_leaves_is_refused_and_changes_nothing(saved, model, message, tmp_path):
    save(saved, tmp_path / "other.safetensors")
    before, text = copy.deepcopy(model.state_dict()), repr(model)
    with pytest.raises(ArtifactError, match=message):
        load_(model, tmp_path / "other.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert repr(model) == text


def test_a_layer_whose_tensors_disagree_is_refused(tmp_path):
    odd = narrow((4, 8))
    odd[1].running_mean = torch.zeros(5)
    save(odd, tmp_path / "odd.safetensors")
    model = narrow()
    before, text = copy.deepcopy(model.state_dict()), repr(model)
    with pytest.raises(ArtifactError, match=r"'1\.weight' has the shape \[4\] in the file and \[8\] in the model"):
        load_(model, tmp_path / "odd.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert repr(model) == text


def test_loading_that_fails_half_way_leaves_the_sizes(tmp_path, monkeypatch):
    x = torch.randn(2, 3, 32, 32)
    save(cut_half(narrow(), x), tmp_path / "cut.safetensors")
    model = narrow()
    before, text = {name: (t, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}, repr(model)
    real, calls = loading._put_, []

    def fails_the_third_time(place, value):
        calls.append(place)
        if len(calls) == 3:
            raise MemoryError("no more")
        real(place, value)

    monkeypatch.setattr(loading, "_put_", fails_the_third_time)
    with pytest.raises(MemoryError):
        load_(model, tmp_path / "cut.safetensors")
    assert repr(model) == text
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
