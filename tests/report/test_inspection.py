import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from spectrim.nn.spectral import SpectralCodec
from spectrim.report import inspect_model, inspect_parts


def net(*, kept: int | None = None) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    if kept is not None:
        layer = model[0]
        parametrize.register_parametrization(layer, "weight", SpectralCodec(layer.weight.shape, kept))
    return model


def test_a_dense_model_says_how_many_coefficients_hold_the_energy():
    model = net()
    with torch.no_grad():
        model[3].weight.fill_(1.0)
    found = inspect_model(model)
    rows = {row.site: row for row in found.rows}
    assert rows["3.weight"].needed == 1
    assert rows["0.weight"].needed > 100
    assert rows["0.weight"].kind == "dense"
    assert rows["0.weight"].keep == 1
    assert found.kept == found.numel == sum(t.numel() for t in model.state_dict().values())
    assert "99 % of energy in" in str(found)
    assert "nothing coded" in found.headline()


def test_a_coded_model_says_what_is_kept_and_how_much_of_the_energy():
    model = net(kept=50)
    code = model[0].parametrizations.weight.original.detach()
    found = inspect_model(model)
    row = found.coded[0]
    assert (row.site, row.kind, row.shape, row.numel, row.kept, row.bytes) == (
        "0.weight", "spectral", (8, 3, 3, 3), 216, 50, 100
    )  # fmt: skip
    codec = model[0].parametrizations.weight[0]
    assert row.energy == pytest.approx(float(codec.packed(code)[0].square().sum() / code.square().sum()), rel=1e-5)
    assert 0 < row.energy < 1
    assert "50 of 216 coefficients kept in 1 coded tensor" in found.headline()


def test_rows_tile_what_is_stored_and_bytes_are_predicted_at_float16():
    found = inspect_model(net(kept=50))
    stored = {row.site: (row.kept, row.bytes) for row in found.rows}
    assert stored == {
        "0.weight": (50, 100),
        "3.weight": (32, 64),
        "biases and norms (4)": (8 + 16 + 4, 56),
        "buffers (3)": (17, 2 * 16 + 8),
    }
    assert found.bytes == sum(size for _, size in stored.values())


def test_looking_changes_nothing():
    model = net(kept=50).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inspect_model(model)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_tensor_with_two_names_has_one_row():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert [row.site for row in inspect_model(model).rows] == ["0.weight"]


def test_a_model_without_values_is_inspected_all_the_same():
    with torch.device("meta"):
        found = inspect_model(nn.Linear(100_000, 100_000))
    assert found.rows[0].needed is None
    assert found.bytes == 2 * (10**10 + 10**5)


def test_json_has_the_numbers_and_survives_a_round_trip():
    document = inspect_model(net(kept=50)).to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["totals"]["kept"] == 50 + 32 + 28 + 17
    assert document["rows"][0]["keep"] == pytest.approx(50 / 216)
    assert "needed" not in document["rows"][0]


def test_a_file_has_a_row_for_each_component_and_weight_and_its_bytes_add_up():
    found = inspect_parts(
        "a.safetensors",
        components=[
            ("conv.weight", "spectral", {"shape": [8, 8, 3, 3], "kept": 33}, 33, 66),
            ("mix", "banded", {}, 0, 0),
        ],
        tensors=[("conv.bias", [8], 16), ("mix.core", [4, 4], 32), ("fc.weight", [2, 8], 32), ("steps", [], 8)],
        header=300,
    )
    rows = {row.site: row for row in found.rows}
    assert rows["conv.weight"].numel == 576
    assert rows["conv.weight"].energy is None
    assert rows["mix.core"].kind == "banded"
    assert rows["fc.weight"].kind == "dense"
    assert rows["vectors and scalars (2)"].bytes == 24
    assert found.bytes == 66 + 24 + 32 + 32 + 300
    assert "header" in str(found)
    assert "in the file" in found.headline()
    assert found.to_json()["totals"]["header"] == 300


@pytest.mark.parametrize("spec", [{}, {"shape": "8,8"}, {"shape": [8, "8"]}])
def test_a_component_of_an_unknown_kind_still_has_its_count(spec):
    row = inspect_parts("x", components=[("w", "tomorrow", spec, 5, 10)], tensors=[], header=1).rows[0]
    assert (row.kept, row.numel, row.shape) == (5, 5, None)


def test_the_text_is_aligned():
    lines = str(inspect_model(net(kept=50))).splitlines()
    table = lines[2:]
    ends = {len(line) for line in table if not line.startswith("-")}
    assert len(ends) == 1
    assert all(line == line.rstrip() for line in lines)


def test_an_empty_model_has_no_rows_and_no_error():
    assert inspect_model(nn.Identity()).rows == ()
    assert "0 numbers" in str(inspect_model(nn.Identity()))
    assert "total" in str(inspect_parts("x", components=[], tensors=[], header=5))


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"share=0\.99"):
        inspect_model(net(), share=99)
