"""Banded convolutions beside the dense layers that they stand for: what was measured is told, and restored if asked."""

import warnings

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.measure import band_forms, settling
from spectrim.measure.band_forms import advice
from spectrim.measure.choice import WHOLE, Choice
from spectrim.nn import FlatBandsConv2d, GroupedBandsConv2d
from tests.surgery.test_chaining import Bottlenecks


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 8, 1)
    ).eval()


def pruned(build=network, **settings):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method = st.PointwisePruning(keep=0.3, pays="always", score="energy", **settings)
    return st.compress_(build(), method, calibration=x), x


def clock(monkeypatch, banded, whole=0.8, chained=2.0):
    """Times that are decided here, by the site or for all; everything is run once, and a dense layer takes 1."""
    ran = {}

    def fastest(forms, x, *, site, margin=0.05, **_):
        ran[site] = {name: form(x) for name, form in forms.items()}
        took = whole if site == WHOLE else banded[site] if isinstance(banded, dict) else banded
        ms = {name: {"dense": 1.0, "apart": took, "banded": took, "chained": chained}[name] for name in forms}
        first, best = next(iter(ms)), min(ms, key=ms.get)
        return Choice(site, tuple(x.shape), ms, best if ms[best] < (1 - margin) * ms[first] else first)

    monkeypatch.setattr(band_forms, "fastest", fastest)
    monkeypatch.setattr(settling, "fastest", fastest)
    monkeypatch.setattr(band_forms, "could_build", lambda: False)
    return ran


def test_each_layer_and_the_whole_are_measured_beside_dense_ones(monkeypatch):
    ran = clock(monkeypatch, 0.5)
    model, x = pruned()
    expected, choices = model(x), []
    st.finalize_(model, example=x, choices=choices)
    assert [(each.site, each.taken, list(each.ms)) for each in choices] == [
        ("2", "banded", ["dense", "banded"]), ("4", "banded", ["dense", "banded"]), (WHOLE, "banded", ["dense", "banded"]),
    ]  # fmt: skip
    assert [each.input for each in choices] == [(2, 16, 16, 16), (2, 24, 16, 16), (2, 3, 16, 16)]
    torch.testing.assert_close(ran[WHOLE]["dense"], network()(x))
    torch.testing.assert_close(ran[WHOLE]["banded"], expected)
    torch.testing.assert_close(model(x), expected)
    assert isinstance(model[2], GroupedBandsConv2d)


def test_a_slower_layer_keeps_its_bands_and_one_warning_says_what_to_do(monkeypatch):
    clock(monkeypatch, {"2": 1.5, "4": 0.5}, whole=1.2)
    model, x = pruned()
    expected = model(x)
    said = r"1 of 2 banded convolutions run slower here than dense ones \(2: 1\.5 against 1 ms\), the model in 1\.2 ms, with dense ones in 1 ms\. To do: finalize_\(\.\.\., restore=True\)"
    with pytest.warns(UserWarning, match=said) as caught:
        st.finalize_(model, example=x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert isinstance(model[2], GroupedBandsConv2d)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("finalized", [False, True])
def test_a_slower_layer_has_all_its_frequencies_again_if_asked(monkeypatch, finalized):
    clock(monkeypatch, {"2": 1.5, "4": 0.5})
    (model, x), (other, _), choices = pruned(), pruned(), []
    other[2] = network()[2]
    if finalized:
        st.finalize_(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        st.finalize_(model.train(), example=x, restore=True, choices=choices)
    assert [(each.site, each.taken) for each in choices] == [("2", "dense"), ("4", "banded"), (WHOLE, "banded")]
    assert type(model[2]) is nn.Conv2d
    assert isinstance(model[4], GroupedBandsConv2d)
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(model.eval()(x), other(x))


@pytest.mark.parametrize("chained", [0.2, 2.0])
def test_a_network_that_is_no_faster_as_a_whole_is_dense_again_if_asked(monkeypatch, chained):
    clock(monkeypatch, 0.5, whole=0.995, chained=chained)
    model, x = pruned(lambda: Bottlenecks().eval(), tie="stage")
    choices = []
    st.finalize_(model, example=x, restore=True, choices=choices)
    assert (choices[0].ms["chained"], choices[-1].ms) == (chained, {"dense": 1.0, "banded": 0.995})
    assert {each.taken for each in choices} == {"dense"}
    assert not any(isinstance(each, FlatBandsConv2d | GroupedBandsConv2d) for each in model.modules())
    torch.testing.assert_close(model(x), Bottlenecks().eval()(x), atol=1e-5, rtol=1e-4)


def test_a_chain_that_loses_to_dense_layers_is_told_and_not_taken_if_asked(monkeypatch):
    for restore in (False, True):
        clock(monkeypatch, 2.5, whole=1.5, chained=1.5)
        (model, x), choices = pruned(lambda: Bottlenecks().eval(), tie="stage"), []
        expected = model(x)
        st.finalize_(model, example=x, restore=restore, choices=choices)
        assert choices[0].ms == {"apart": 2.5, "chained": 1.5, "dense": 1.0}
        assert choices[0].taken == ("apart" if restore else "chained")
        torch.testing.assert_close(model(x), Bottlenecks().eval()(x) if restore else expected, atol=1e-5, rtol=1e-4)
        assert any(isinstance(each, FlatBandsConv2d) for each in model.modules()) != restore
        said = advice(choices, x)
        assert said is None if restore else "banded convolutions run slower here than dense ones (stem.2: 1.5" in said


def test_kernels_that_could_be_built_are_named_where_single_precision_runs_on_a_processor(monkeypatch):
    clock(monkeypatch, 0.5)
    monkeypatch.setattr(band_forms, "could_build", lambda: True)
    model, x = pruned()
    with pytest.warns(
        UserWarning, match=r"run in plain torch here, the model in .*: call spectrim\.kernels\.build\(\)"
    ):
        st.finalize_(model, example=x)
    choices = [Choice("2", (1, 16, 4, 4), {"dense": 1.0, "banded": 0.5}, "banded")]
    assert advice(choices, x) is not None
    assert advice(choices, x.double()) is None
    assert advice([], x) is None


def test_nothing_is_restored_without_an_example_or_measured_without_bands(monkeypatch):
    monkeypatch.setattr(band_forms, "fastest", None)
    with pytest.raises(ValueError, match=r"restore=True measures .* got no example\. Pass example"):
        st.finalize_(network(), restore=True)
    choices = []
    st.finalize_(network(), example=torch.rand(1, 3, 16, 16), restore=True, choices=choices)
    assert choices == []


def test_the_clock_is_a_real_one():
    model, x = pruned()
    choices = []
    st.finalize_(model, example=x, choices=choices)
    assert all(min(each.ms.values()) > 0 and each.threads == 1 for each in choices)
    assert choices[-1].ms["dense"] > choices[0].ms["dense"]
