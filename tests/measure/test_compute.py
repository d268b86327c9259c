import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from spectrim import finalize_
from spectrim.errors import UnsupportedError
from spectrim.measure import macs, macs_report
from spectrim.nn import BandedPointwiseConv2d
from spectrim.nn.spectral import SpectralCodec

IMAGE = torch.zeros(1, 3, 224, 224)


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(4, 8, 3, padding=1), (1, 4, 6, 6), 36 * 4 * 8 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), (1, 4, 6, 6), 9 * 4 * 8 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 6, 6), 36 * 8 * 9),
        (nn.Conv1d(4, 8, 5), (1, 4, 10), 6 * 4 * 8 * 5),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 27 * 2 * 3 * 8),
        (nn.ConvTranspose2d(8, 4, 2, stride=2), (1, 8, 5, 5), 25 * 8 * 4 * 4),
        (nn.Linear(7, 5), (3, 7), 3 * 35),
        (nn.BatchNorm2d(4), (1, 4, 6, 6), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_layer_takes_what_the_textbook_says(layer: nn.Module, shape: tuple[int, ...], expected: int):
    assert macs(layer, torch.zeros(shape)) == expected


@pytest.mark.parametrize(("name", "giga"), [("resnet18", 1.8141), ("mobilenet_v2", 0.3008), ("convnext_tiny", 4.4555)])
def test_published_networks_of_torchvision_take_what_is_published(name: str, giga: float):
    models = pytest.importorskip("torchvision.models")
    assert macs(getattr(models, name)(), IMAGE) / 1e9 == pytest.approx(giga, abs=5e-5)


def test_attention_is_counted():
    timm = pytest.importorskip("timm")
    assert macs(timm.create_model("vit_tiny_patch16_224"), IMAGE) / 1e9 == pytest.approx(1.2537, abs=5e-5)


def test_a_batch_counts_as_a_whole():
    layer = nn.Linear(4, 4)
    assert macs(layer, torch.zeros(10, 4)) == 10 * macs(layer, torch.zeros(1, 4))


def test_several_inputs_are_passed_on():
    assert macs(nn.Bilinear(2, 3, 4), [torch.zeros(1, 2), torch.zeros(1, 3)]) >= 0


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1))


def code_(model: nn.Sequential, kept: int = 20) -> nn.Sequential:
    for layer in (model[0], model[3]):
        parametrize.register_parametrization(layer, "weight", SpectralCodec(layer.weight.shape, kept))
    return model


@pytest.mark.parametrize("training", [True, False])
def test_a_coded_model_takes_as_much_as_the_dense_one_and_decoding_is_told_apart(*, training: bool):
    inputs = torch.zeros(1, 3, 12, 12)
    dense = macs_report(net(), inputs)
    model = code_(net()).train(training)
    with torch.no_grad():
        model(torch.randn(2, 3, 12, 12))  # in evaluation this fills the cache
    report = macs_report(model, inputs)
    assert report.total == dense.total == sum(dense.by_module[name] for name in ("0", "3"))
    assert report.by_module == dense.by_module
    assert dense.decode == 0
    assert report.decode > 0


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_model_as_it_was(*, training: bool):
    model = code_(net()).train(training)
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before, classes = state(model), [type(module) for module in model.modules()]
    generator = torch.get_rng_state()
    macs(model, torch.zeros(1, 3, 12, 12))
    after = model.state_dict()
    assert calls == []
    assert [type(module) for module in model.modules()] == classes
    assert all(module.training is training for module in model.modules() if not isinstance(module, SpectralCodec))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(generator, torch.get_rng_state())
    model(torch.zeros(2, 3, 12, 12)).sum().backward()
    assert model[0].parametrizations.weight.original.grad is not None


def test_parametrizations_of_others_are_decoded_without_touching_their_state():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6)))
    before = state(model)
    assert macs(model, torch.zeros(1, 6)) == 36
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_large_model_costs_no_memory():
    with torch.device("meta"):
        model = nn.Linear(100_000, 100_000)
    assert macs(model, torch.zeros(1, 100_000)) == 10**10


class ReadsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum().item() > 0 else -x


def test_a_forward_that_reads_values_is_refused_with_a_reason():
    with pytest.raises(UnsupportedError, match=r"ReadsValues .* cannot be counted"):
        macs(ReadsValues(), torch.zeros(1, 3))


def test_a_wrong_shape_is_refused_with_a_reason():
    with pytest.raises(UnsupportedError, match="Check the shapes"):
        macs(nn.Linear(3, 3), torch.zeros(1, 4))


@pytest.mark.parametrize("finalized", [False, True])
def test_low_frequencies_are_counted_as_the_compiled_form_computes_them(finalized):
    """Two of four coefficients of one channel and all of the other, on blocks of 2 x 2; the stride is taken before."""
    layer = BandedPointwiseConv2d(2, 3, (2, 2), kept=[2, 4], stride=(2, 1))
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sequential(layer, nn.ReLU()))
    model = finalize_(model) if finalized else model
    images, positions = 5, 4 * 8  # of a map of 7 x 7: 4 rows are left, and 7 columns are continued to 8
    report = macs_report(model, torch.zeros(images, 3, 7, 7))
    products, transforms = positions * 6 * 3 // 4, positions * (2 + 4 + 4 * 3)
    own, first = images * (products + transforms), images * 49 * 3 * 2
    assert report.by_module == {"": own + first, "0": first, "1": own, "1.0": own}
    assert report.total == own + first
