"""Which filters became transformations of which: in a live network, in a file, on the page, and as numbers to draw."""

import copy
import json

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.errors import ArtifactError
from spectrim.nn.component import components
from spectrim.nn.reconstructed import TemplateConv
from spectrim.report import Rebuilt, rebuilt_layers, render
from spectrim.report.rebuilt import chart, rebuilt_parts, samples
from tests.report.result import result


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1))


def rebuilt(*, progress: float = 1.0, **settings: object) -> nn.Sequential:
    """Filters 0, 2 and 4 of the second convolution have the smallest weights, and go first."""
    model = network()
    with torch.no_grad():
        model[2].weight[:5:2] *= 0.01
    method = st.ReconstructedFilters(**{"keep": 5 / 8, "least": 2, "stages": 1, "groups": 2, **settings})
    st.compress_(model, method, where="2")
    st.anneal_(model, progress)
    return model


def test_a_live_network_says_which_filter_is_made_of_which():
    (row,) = rebuilt_layers(rebuilt())
    assert row.made == {0: 1, 2: 3, 4: 5}
    assert str(row) == "2  3 of 8 rebuilt: 0 of 1, 2 of 3, 4 of 5"
    assert (row.stored, row.by_equation) == (9 * 6 * 5 + 9 * 2 * 3, 9 * 3 * 5 + 9 * 2 * 3)
    said = "3 of 8 filters are rebuilt from others; templates and transformations are 324 numbers, 189 by the paper's equation 3.9"
    assert str(st.inspect(rebuilt())).endswith(f"{said}\n  {row}")


@pytest.mark.parametrize("share_groups", [False, True])
def test_templates_and_transformations_are_one_row_against_all_filters_live_and_in_a_file(tmp_path, share_groups):
    model = rebuilt(share_groups=share_groups)
    st.save(model, tmp_path / "small.safetensors")
    (layer,) = rebuilt_layers(model)
    loaded = st.load_(network(), tmp_path / "small.safetensors", decode=False)
    for found in (st.inspect(model), st.inspect(tmp_path / "small.safetensors"), st.inspect(loaded)):
        (row,) = (row for row in found.rows if row.kind == "template-conv")
        assert (row.site, row.shape, row.numel) == ("2.weight", (8, 6, 3, 3), 432)
        assert (row.kept, row.bytes) == (layer.stored, 2 * layer.stored)
        share = "75 %" if not share_groups else "43.8 %"
        said = f": 3 of 8 filters rebuilt in 1 layer, {layer.stored} of 432 numbers kept there ({share}), "
        assert said in found.headline()
        assert "coefficients" not in str(found)
        assert sum(row.numel for row in found.rows if row.shape) == sum(
            w.numel() for w in network().parameters() if w.ndim > 1
        )


def test_coded_templates_are_a_row_and_what_they_are_changed_by_another(tmp_path):
    model = st.compress_(rebuilt(), st.FrequencyRegularization(keep=0.5), where="2.weight")
    st.anneal_(model, 1.0)
    st.save(model, tmp_path / "small.safetensors")
    for found in (st.inspect(model), st.inspect(tmp_path / "small.safetensors")):
        rows = {row.site: row for row in found.rows}
        assert (rows["2.weight"].kind, rows["2.weight"].numel, rows["2.weight"].kept) == ("spectral", 5 * 54, 135)
        other = rows["2.transformations"]
        assert (other.kind, other.numel, other.kept, other.bytes) == ("template-conv", 3 * 54, 3 * 2 * 9, 2 * 3 * 2 * 9)
        assert (
            "135 of 270 coefficients kept in 1 coded tensor (50 %), 3 of 8 filters rebuilt in 1 layer, "
            in found.headline()
        )


def test_before_the_first_step_nothing_is_rebuilt():
    (row,) = rebuilt_layers(rebuilt(progress=0.0))
    assert (row.filters, row.made) == (8, {})
    assert str(row) == "2  0 of 8 rebuilt"


def test_a_network_without_such_layers_says_nothing_of_them():
    found = st.inspect(network())
    assert found.rebuilt == ()
    assert "rebuilt" not in str(found)
    assert "rebuilt" not in found.to_json()


@pytest.mark.parametrize(
    ("family", "share_groups", "counts"),
    [("scalar", False, (324, 189)), ("scalar", True, (189, 189)), ("affine", False, (306, 171))],
)
def test_a_file_and_the_network_loaded_from_it_say_the_same_as_the_live_one(tmp_path, family, share_groups, counts):
    model = rebuilt(family=family, share_groups=share_groups)
    st.save(model, tmp_path / "small.safetensors")
    live, filed = st.inspect(model), st.inspect(tmp_path / "small.safetensors")
    assert live.rebuilt == filed.rebuilt == rebuilt_layers(st.load_(network(), tmp_path / "small.safetensors"))
    assert json.loads(json.dumps(filed.to_json()))["rebuilt"] == [
        {
            "site": "2",
            "family": family,
            "groups": 2,
            "filters": 8,
            "made": {"0": 1, "2": 3, "4": 5},
            "shape": [8, 6, 3, 3],
        }
        | dict(zip(("stored", "by_equation"), counts, strict=True))
    ]
    loaded = st.load_(network(), tmp_path / "small.safetensors", decode=False)
    assert counts[0] == loaded[2].weight.numel() + loaded[2].transformations.numel()


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"2.template": [0, 0], "2.turned": [-1, 0, 1]}, r"2 templates, 3 transformations"),
        ({"2.template": [0, 7, 0], "2.turned": [-1, 0, 1]}, r"no output is the template in row 7"),
        ({"2.template": [0, 0, 0]}, r"2\.turned"),
    ],
)
def test_a_file_whose_numbers_do_not_fit_is_refused_by_name(tensors, sentence):
    numbers = {name: torch.tensor(values) for name, values in tensors.items()}
    with pytest.raises(ArtifactError, match=rf"the layer '2'.*{sentence}"):
        rebuilt_parts({"2": {"family": "scalar", "groups": 1}}, numbers)


def test_a_sample_is_a_template_times_its_transformation_where_the_template_weighs_most():
    model = rebuilt()
    layer = model[2]
    assert isinstance(layer, TemplateConv)
    shown = samples(model)
    assert [(each["output"], each["of"]) for each in shown] == [(0, 1), (2, 3), (4, 5)]
    for each in shown:
        template, change, made = (torch.tensor(each[name]) for name in ("template", "transformation", "rebuilt"))
        torch.testing.assert_close(template * change, made, rtol=1e-2, atol=1e-5)
        torch.testing.assert_close(made, layer.filters()[each["output"], each["channel"]], rtol=1e-3, atol=1e-6)
        assert each["channel"] == int(layer.weight[each["of"]].square().sum((1, 2)).argmax())


def test_samples_show_every_template_once_before_any_twice():
    model = rebuilt(keep=3 / 8)
    (row,) = rebuilt_layers(model)
    count = len(set(row.made.values()))
    assert count < len(row.made)
    assert len({each["of"] for each in samples(model, count=count)}) == count
    assert len(samples(model, count=2)) == 2


def test_other_families_are_shown_as_matrices_of_taps():
    first = samples(rebuilt(family="rotation"))[0]
    assert torch.tensor(first["transformation"]).shape == (9, 9)
    assert torch.tensor(first["rebuilt"]).shape == (3, 3)


def test_nothing_rebuilt_is_nothing_to_show():
    assert samples(network()) == samples(rebuilt(progress=0.0)) == []
    assert chart({}) is None
    assert chart({"rebuilt": {"layers": [], "samples": []}}) is None


def test_the_page_of_a_run_lists_the_filters_and_draws_some():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    model = rebuilt()
    entry = {"layers": [row.to_json() for row in rebuilt_layers(model)], "samples": samples(model)}
    page = render({**result(), "rebuilt": json.loads(json.dumps(entry))})
    assert "Which filters became which" in page
    assert "<td>2</td>" in page
    assert "3 of 8" in page
    assert "0 of 1 · 2 of 3 · 4 of 5" in page.replace("\N{NO-BREAK SPACE}", " ")
    assert "3 rebuilt filters of 2" in page
    drawn = chart({"rebuilt": entry})
    assert drawn is not None
    assert drawn.svg.count("<image") == 9
    assert render({**result(), "rebuilt": entry}) == page


def test_the_page_of_another_method_has_no_such_section():
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    assert "Which filters became which" not in render(result())
    assert "Which filters became which" not in render({**result(), "rebuilt": {"layers": [], "samples": []}})


def test_looking_changes_nothing():
    model = rebuilt()
    before = copy.deepcopy(model.state_dict())
    samples(model)
    rebuilt_layers(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [path for path, _ in components(model)] == ["2"]


def test_one_line_groups_the_filters_by_template():
    row = Rebuilt(site="conv", family="scalar", groups=1, filters=6, made={5: 0, 1: 2, 4: 0})
    assert row.listed() == "5 4 of 0, 1 of 2"
