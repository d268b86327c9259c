"""The constant bases of the codecs: shared, exact after every move, and cheap."""

import copy
import gc

import torch
from torch import nn

import spectrim as st
from spectrim.nn import SpectralCodec, spectral


def bases(codec):
    return [buffer for name, buffer in codec.named_buffers() if name.startswith("basis_")]


def test_layers_of_equal_sizes_hold_one_and_the_same_basis():
    first, second = SpectralCodec((20, 24, 3, 3), 300), SpectralCodec((20, 24, 3, 3), 300)
    assert all(a is b for a, b in zip(bases(first), bases(second), strict=True))


def test_bases_go_when_the_last_layer_goes():
    codec = SpectralCodec((19, 23), 40)
    gc.collect()
    held = len(spectral._BASES)
    del codec
    gc.collect()
    assert len(spectral._BASES) == held - 2


def test_casting_one_layer_leaves_the_bases_of_its_twin_alone():
    first, second, code = SpectralCodec((12, 12), 30), SpectralCodec((12, 12), 30), torch.randn(12, 12)
    before = second(code)
    first.double()
    torch.testing.assert_close(second(code), before, atol=0, rtol=0)
    assert torch.float64 == first(code.double()).dtype


def test_an_empty_model_moved_off_the_meta_device_has_its_bases_and_counts():
    with torch.device("meta"):
        model = st.compress_(nn.Linear(8, 6), st.FrequencyRegularization(keep=0.5))
    model.to_empty(device="cpu")
    codec, expected = model.parametrizations.weight[0], SpectralCodec((6, 8))
    for found, wanted in zip(codec.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, atol=0, rtol=0)


def test_a_codec_made_in_inference_mode_shares_bases_that_train():
    with torch.inference_mode():
        made = SpectralCodec((13, 17), 50)
    code = nn.Parameter(torch.randn(13, 17))
    SpectralCodec((13, 17), 50)(code).sum().backward()
    assert code.grad is not None
    assert not any(basis.is_inference() for basis in bases(made))


def test_a_copy_decodes_as_its_source():
    codec, code = SpectralCodec((12, 10), 30), torch.randn(12, 10)
    torch.testing.assert_close(copy.deepcopy(codec)(code), codec(code), atol=0, rtol=0)


def test_a_whole_network_in_bfloat16_autocast_sees_weights_decoded_in_float32():
    model = st.compress_(nn.Sequential(nn.Linear(32, 32)), st.FrequencyRegularization(keep=0.2, schedule="linear"))
    st.anneal_(model, 1.0)
    expected = model[0].weight
    with torch.autocast("cpu", torch.bfloat16):
        output, inside = model(torch.randn(4, 32)), model[0].weight
    assert (torch.bfloat16, torch.float32) == (output.dtype, inside.dtype)
    torch.testing.assert_close(inside, expected, atol=0, rtol=0)
