"""Frequency Regularization plans: candidates, skips, counts, and the refusals."""

import pytest
import torch
from torch import nn

from spectrim import FrequencyRegularization, OrderError, SiteError, anneal_, compress_, finalize_, plan
from spectrim.surgery import coded


def kept(model, method, **options):
    made = plan(model, method, **options)
    return {edit.site: edit.spec["truncation"]["target"] for edit in made.edits}


def skips(model, method=FrequencyRegularization(), **options):  # noqa: B008  # frozen
    return {row.site: row.reason for row in plan(model, method, **options).skipped}


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, 5, 101, float("nan")])
def test_keep_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got"):
        FrequencyRegularization(keep=keep)


def test_a_percentage_gets_a_hint():
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 5. For 5 percent, pass keep=0.05."):
        FrequencyRegularization(keep=5)
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 7"):
        FrequencyRegularization(keep={"*": 7})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"keep": "0.1"}, TypeError), ({"keep": True}, TypeError), ({"floor": 0}, ValueError), ({"floor": 1.5}, ValueError),
        ({"order": "zigzag"}, ValueError), ({"norm": "l2"}, ValueError), ({"schedule": "fr2023-linear"}, ValueError),
        ({"compat": "fr2022"}, ValueError), ({"decay": 1.0}, ValueError),
    ],
    ids=str,
)  # fmt: skip
def test_other_nonsense_is_refused(options, error):
    with pytest.raises(error, match=next(iter(options))):
        FrequencyRegularization(**options)


def test_weights_of_every_kind_are_candidates():
    model = nn.ModuleDict(
        {
            "c1": nn.Conv1d(4, 8, 3), "c2": nn.Conv2d(4, 8, 3), "c3": nn.Conv3d(4, 8, 3), "grouped": nn.Conv2d(8, 8, 3, groups=4),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8), "t1": nn.ConvTranspose1d(4, 8, 3), "t2": nn.ConvTranspose2d(4, 8, 3),
            "t3": nn.ConvTranspose3d(4, 8, 3), "linear": nn.Linear(8, 8), "mha": nn.MultiheadAttention(8, 2),
            "norm": nn.BatchNorm2d(8), "embed": nn.Embedding(10, 8),
        }
    )  # fmt: skip
    found = kept(model, FrequencyRegularization(keep=0.5))
    assert set(found) == {
        f"{n}.weight" for n in ("c1", "c2", "c3", "grouped", "depthwise", "t1", "t2", "t3", "linear")
    } | {
        "mha.in_proj_weight",
        "mha.out_proj.weight",
    }
    assert found["c1.weight"] == 96 // 2
    assert skips(model) == {"embed.weight": "no convolution or linear weight; name it in where to code it"}


def test_any_parameter_can_be_coded_by_name():
    class Vit(nn.Module):
        def __init__(self):
            super().__init__()
            self.pos_embed = nn.Parameter(torch.randn(1, 65, 16))
            self.cls = nn.Parameter(torch.randn(1, 1, 16))
            self.embed = nn.Embedding(10, 8)
            self.head = nn.Linear(16, 10)

    method = FrequencyRegularization(keep=0.1)
    assert kept(Vit(), method, where=["pos_embed", "embed.weight", "head.bias"]) == {
        "pos_embed": 104,
        "embed.weight": 8,
        "head.bias": 1,
    }
    assert kept(Vit(), method, where="*") == {"head.weight": 16}
    model = compress_(Vit(), method, where=["pos_embed", "head"])
    anneal_(model, 1.0)
    assert [entry.site for entry in coded(model)] == ["pos_embed", "head.weight"]
    assert model.pos_embed.shape == (1, 65, 16)
    assert isinstance(finalize_(model).pos_embed, nn.Parameter)


def test_per_layer_values_take_the_first_match_and_leave_the_rest_dense():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 10))
    method = FrequencyRegularization(keep={"0": 0.5, "[01].*": 0.2}, floor={"1": 30})
    assert kept(model, method) == {"0.weight": 50, "1.weight": 30}
    assert skips(model, method) == {"2.weight": "no pattern of keep matches"}


def test_what_cannot_be_coded_is_skipped_by_name():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "tied": nn.Linear(4, 4), "sn": nn.Linear(4, 4)})
    model["tied"].weight = model["a"].weight
    nn.utils.parametrizations.spectral_norm(model["sn"])
    model["lstm"], model["lazy"] = nn.LSTM(4, 4), nn.LazyLinear(4)
    model["complex"] = nn.Linear(4, 4, dtype=torch.complex64)
    found = skips(model, where=["*", "lstm.weight_ih_l0"])
    assert found["a.weight"] == "tied with tied.weight"
    assert found["tied.weight"] == "tied with a.weight"
    assert found["sn.weight"] == "already parametrized by _SpectralNorm"
    assert found["lstm.weight_ih_l0"].startswith("recurrent layers")
    assert found["lazy.weight"].startswith("not initialised yet")
    assert "torch.complex64" in found["complex.weight"]
    assert {"b.weight"} == set(kept(model, FrequencyRegularization(keep=0.5)))


def test_an_axis_too_long_to_anneal_is_skipped_unless_truncated_at_once():
    embed = nn.Embedding(50_257, 4)
    assert skips(embed, where="weight") == {
        "weight": "an axis of 50,257 needs a basis of 10.1 GB to start from; use schedule='at-once'"
    }
    assert kept(embed, FrequencyRegularization(keep=0.001, schedule="at-once"), where="weight") == {"weight": 201}


def test_a_glob_over_weights_leaves_norms_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LayerNorm(8), nn.Embedding(9, 4), nn.Linear(8, 8))
    method = FrequencyRegularization(keep=0.5)
    assert set(kept(model, method, where="*.weight")) == {"0.weight", "4.weight"}
    assert set(kept(model, method, where=["*.weight", "1.weight"])) == {
        "0.weight",
        "1.weight",
        "4.weight",
    }
    with pytest.raises(
        SiteError, match=r"To code '3\.weight', which is no convolution or linear weight, name it in full"
    ):
        plan(model, method, where="3")


@pytest.mark.parametrize("options", [{"keep": {"typo.*": 0.1}}, {"floor": {"typo.*": 3}}], ids=str)
def test_a_glob_for_a_value_that_matches_nothing_is_refused(options):
    with pytest.raises(SiteError, match=r"'typo\.\*' matches none of the 1 candidate"):
        plan(nn.Sequential(nn.Linear(8, 8)), FrequencyRegularization(**options))


def test_an_empty_selection_selects_nothing():
    with pytest.raises(SiteError, match="leaves none of the 1 candidate"):
        plan(nn.Sequential(nn.Linear(8, 8)), FrequencyRegularization(), where=[])


def test_compressing_a_model_without_weights_says_so():
    with pytest.raises(SiteError, match="finds no candidate in ReLU"):
        compress_(nn.ReLU(), FrequencyRegularization())


def test_weight_and_bias_of_one_layer_can_both_be_coded_and_measured():
    model = nn.Sequential(nn.Linear(64, 64), nn.Conv1d(64, 64, 3, padding=1))
    names, x = list(model.state_dict()), torch.randn(64, 64)
    compress_(model, FrequencyRegularization(keep=0.02), where=["*.bias", "0", "1"])
    anneal_(model, 1.0)
    expected = model.eval()(x)
    finalize_(model, example=x)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    assert names == list(model.state_dict())


def test_a_layer_used_twice_is_finalized_in_both_places():
    shared = nn.Linear(512, 512)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    compress_(model, FrequencyRegularization(keep=1e-6, floor=6, schedule="at-once"))
    x = torch.randn(256, 512)
    expected = model.eval()(x)
    finalize_(model, example=x)
    assert model[0] is model[2]
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_a_model_without_weights_has_no_candidates():
    with pytest.raises(SiteError, match="leaves none of the 0 candidate tensors of ReLU"):
        plan(nn.ReLU(), FrequencyRegularization(), where=lambda *_: True)
    assert plan(nn.ReLU(), FrequencyRegularization()).edits == ()


def test_coding_twice_is_refused_until_decoded():
    model = compress_(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), FrequencyRegularization(keep=0.5), where="0")
    with pytest.raises(OrderError, match=r"1 of those asked for are already coded \(first: '0\.weight', spectral\)"):
        compress_(model, FrequencyRegularization(keep=0.5))
    compress_(model, FrequencyRegularization(keep=0.5), where="1")
    compress_(finalize_(model), FrequencyRegularization(keep=0.2))


def test_compat_keeps_the_official_counts_per_layer():
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(64, 64, 3),
            "fc": nn.Linear(512, 10),
            "small": nn.Conv2d(3, 64, 3),
            "up": nn.ConvTranspose2d(64, 1, 4),
        }
    )
    method = FrequencyRegularization(keep=0.01, compat="fr2023")
    assert kept(model, method) == {"conv.weight": 370, "fc.weight": 256, "small.weight": 128, "up.weight": 32}
    assert kept(model, FrequencyRegularization(keep=1e-7, floor=32, compat="fr2023", decay=0.1)) == {
        "conv.weight": 33,
        "fc.weight": 33,
        "small.weight": 33,
        "up.weight": 33,
    }


def test_compat_runs_all_layers_on_one_clock():
    model = nn.ModuleDict({"conv": nn.Conv2d(64, 64, 3), "small": nn.Conv2d(3, 64, 3)})
    compress_(model, FrequencyRegularization(keep=0.01, compat="fr2023"))
    anneal_(model, 2738 / 10194)
    counts = {entry.site: entry.codec.count for entry in coded(model)}
    assert counts["small.weight"] == 128
    assert counts["conv.weight"] > 370
    anneal_(model, 1.0)
    assert {entry.site: entry.codec.count for entry in coded(model)} == {"conv.weight": 370, "small.weight": 128}


def test_truncated_at_once_starts_at_the_target():
    model = compress_(nn.Linear(20, 20), FrequencyRegularization(keep=0.1, schedule="at-once"))
    assert coded(model)[0].codec.count == 40


def test_subclasses_with_a_forward_of_their_own_are_coded_all_the_same():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, 2 * self.weight, self.bias)

    model = nn.Sequential(Doubled(3, 8, 3))
    x = torch.randn(1, 3, 8, 8)
    expected = model(x)
    compress_(model, FrequencyRegularization(keep=0.5))
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    assert isinstance(model[0], Doubled)


def test_attention_and_transformer_layers_run_coded():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    expected = layer(x)
    compress_(layer, FrequencyRegularization(keep=0.5))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(finalize_(layer)(x), expected, atol=1e-5, rtol=1e-5)
