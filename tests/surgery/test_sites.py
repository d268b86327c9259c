"""Selecting by name: globs, exclusions, functions, and what is said when nothing matches."""

import copy

import pytest
from torch import nn

from spectrim import FrequencyRegularization, SiteError, compress_
from spectrim.surgery import coded
from spectrim.surgery.sites import parameters, per_site, selected, tied


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.layer2 = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.head = nn.Linear(2, 2)


def choose(where):
    model = Net()
    weights = [site for site in parameters(model) if site.tensor == "weight"]
    return sorted(selected(weights, where, model=model))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, ["head.weight", "layer1.0.weight", "layer1.1.weight", "layer2.0.weight", "layer2.1.weight"]),
        ("layer1.*", ["layer1.0.weight", "layer1.1.weight"]),
        ("head", ["head.weight"]),
        ("head.weight", ["head.weight"]),
        (["layer?.0", "head"], ["head.weight", "layer1.0.weight", "layer2.0.weight"]),
        (["!head", "!layer1.*"], ["layer2.0.weight", "layer2.1.weight"]),
        (["layer*", "!*.1"], ["layer1.0.weight", "layer2.0.weight"]),
        (lambda name, module: name.startswith("layer2") and module.in_features == 2, ["layer2.0.weight", "layer2.1.weight"]),
    ],
    ids=lambda value: "a function" if callable(value) else str(value),
)  # fmt: skip
def test_a_selection_is_what_its_globs_say(where, expected):
    assert expected == choose(where)


def test_a_glob_that_matches_nothing_names_the_nearest():
    with pytest.raises(
        SiteError, match=r"where='layers\.\*' matches none of the 5 candidate tensors of Net\. Nearest: 'layer"
    ):
        choose("layers.*")


def test_an_exclusion_that_excludes_nothing_is_an_error_too():
    with pytest.raises(SiteError, match=r"where='!haed' matches none.*Nearest: 'head"):
        choose(["!haed"])


def test_a_selection_that_leaves_nothing_is_an_error():
    with pytest.raises(SiteError, match="leaves none of the 5 candidate tensors of Net"):
        choose(["head", "!head"])


def test_the_first_matching_pattern_gives_the_value():
    sites = {site.name: site for site in parameters(Net())}
    values = {"layer1.0": 1, "layer1.*": 2, "head.weight": 3}
    assert [
        per_site(values, sites[name]) for name in ("layer1.0.weight", "layer1.1.bias", "head.weight", "head.bias")
    ] == [1, 2, 3, None]


def test_tied_parameters_name_each_other():
    model = Net()
    model.layer2[0].weight = model.layer1[0].weight
    assert tied(model) == {"layer1.0.weight": "layer2.0.weight", "layer2.0.weight": "layer1.0.weight"}


def test_coded_tensors_are_listed_in_the_order_of_the_modules():
    model = compress_(Net(), FrequencyRegularization(keep=0.5), where=["head", "layer1.1"])
    assert [entry.site for entry in coded(model)] == ["layer1.1.weight", "head.weight"]
    assert [entry.site for entry in coded(copy.deepcopy(model))] == ["layer1.1.weight", "head.weight"]
