"""What inspecting a model or a file says of the low frequencies that its pointwise layers read."""

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.nn import FlatBandsConv2d
from spectrim.report.banded import Banded, banded_layers, banded_parts


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).eval()


def cut():
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return st.compress_(net(), st.PointwisePruning(keep=0.4, pays="always", block=4), calibration=x)


@pytest.mark.parametrize("finalized", [False, True])
def test_a_file_says_what_its_model_says(tmp_path, finalized):
    model = st.finalize_(cut()) if finalized else cut()
    st.save(model, tmp_path / "cut.safetensors")
    live, stored = st.inspect(model), st.inspect(tmp_path / "cut.safetensors")
    assert live.banded == stored.banded
    assert [row.site for row in live.banded] == ["2", "4"]
    assert stored.banded[0].block == (4, 4)
    assert 0 < sum(row.share for row in stored.banded) / 2 < 0.5
    assert "of what 2 pointwise layers read kept, " in stored.headline()
    assert "\n\nkept of the inputs:\n  2  " in str(stored)
    assert stored.to_json()["banded"][1] == {"site": "4", "block": [4, 4], "kept": list(stored.banded[1].kept)}


def test_what_is_sorted_keeps_as_much_as_before():
    before = banded_layers(cut())
    after = banded_layers(st.finalize_(cut()))
    assert [sorted(row.kept, reverse=True) for row in before] == [list(row.kept) for row in after]
    layer = cut()[2]
    flat = FlatBandsConv2d.of(layer.geometry, layer.weight, layer.bias, layer.kept.long())
    assert banded_layers(nn.Sequential(flat))[0].kept == after[0].kept


def test_where_nothing_is_cut_nothing_is_said():
    found = st.inspect(net())
    assert found.banded == ()
    assert "kept of the inputs" not in str(found)
    assert "nothing coded" in found.headline()
    assert "banded" not in found.to_json()


def test_beside_codes_the_headline_is_about_these():
    model = cut()
    st.compress_(model, st.FrequencyRegularization(keep=0.5, schedule="at-once"), where="0")
    assert "coefficients kept in 1 coded tensor" in st.inspect(model).headline()


@pytest.mark.parametrize(
    ("spec", "tensors"),
    [
        ({"in": 2, "block": [2, 2]}, {}),
        ({"in": 2, "block": [2, 2]}, {"conv.kept": torch.tensor([1, 5])}),
        ({"in": 2, "block": [2, 2]}, {"conv.kept": torch.tensor([1])}),
        ({"in": 2, "block": [2], "groups": [[2, 1]]}, {}),
        ({"in": 2, "block": [2, 2], "groups": [[2]]}, {}),
    ],
)
def test_a_damaged_file_is_refused_by_name(spec, tensors):
    with pytest.raises(st.ArtifactError, match="the layer 'conv': what it keeps of its input cannot be read"):
        banded_parts({"conv": spec}, tensors)


def test_a_layer_is_one_line():
    row = Banded.of("conv", {"in": 3, "block": [2, 2]}, torch.tensor([1, 1, 4]))
    assert (
        str(row)
        == "conv  50 % of the coefficients of 2 x 2 blocks, 1 to 4 in each of 3 channels, half of them at most 1"
    )
