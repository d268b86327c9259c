import torch
from torch import nn
from torch.nn.utils import parametrize

from spectrim.measure import Numbers, numbers, parameters, state_bytes
from spectrim.nn.spectral import SpectralCodec


def coded(module: nn.Module, kept: int) -> nn.Module:
    parametrize.register_parametrization(module, "weight", SpectralCodec(module.weight.shape, kept))
    return module


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))


def test_parameters_are_those_of_torch():
    model = small_net()
    assert parameters(model) == 3 * 8 * 9 + 8 + 16 + 32


def test_the_four_counts_tile_the_state_dict_of_a_plain_model():
    model = small_net()
    counted = numbers(model)
    assert counted == Numbers(coded=0, dense=216 + 32, small=8 + 16, buffers=17)
    assert counted.total == sum(tensor.numel() for tensor in model.state_dict().values())
    assert counted.learned == parameters(model)


def test_a_coded_tensor_counts_its_kept_coefficients_and_neither_its_spectrum_nor_the_codecs_buffers():
    model = small_net()
    coded(model[0], 33)
    assert numbers(model) == Numbers(coded=33, dense=32, small=24, buffers=17)
    assert numbers(model).weights == 65
    assert parameters(model) == 216 + 8 + 16 + 32


def test_a_tensor_under_two_names_counts_once():
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    model[1].weight = model[0].weight
    assert parameters(model) == 25
    assert numbers(model).dense == 25
    assert state_bytes(model) == 100


def test_buffers_that_are_not_stored_do_not_count():
    model = nn.Linear(2, 2)
    model.register_buffer("scratch", torch.zeros(1000), persistent=False)
    model.register_buffer("mean", torch.zeros(3))
    assert numbers(model).buffers == 3


def test_tensors_with_more_than_one_axis_are_weights_whatever_they_are_called():
    model = nn.Module()
    model.position = nn.Parameter(torch.zeros(1, 4, 6))
    model.scale = nn.Parameter(torch.zeros(()))
    assert numbers(model) == Numbers(coded=0, dense=24, small=1, buffers=0)


def test_bytes_follow_the_dtypes():
    assert state_bytes(nn.Linear(3, 2).half()) == 16
    assert state_bytes(nn.BatchNorm1d(4)) == 4 * 4 * 4 + 8
