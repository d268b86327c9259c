"""Plans: all or nothing, and readable by people and machines."""

import copy

import pytest
import torch
from torch import nn

from spectrim import FrequencyRegularization, Plan, PlanError, compress_, finalize_, plan
from spectrim.nn import FactoredLinear
from spectrim.surgery import ParametrizeTensor, Skipped, SwapModule


def net():
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))


def fingerprint(model):
    return [(name, type(module)) for name, module in model.named_modules()], {
        name: value.clone() for name, value in model.state_dict().items()
    }


def assert_same(before, after):
    assert before[0] == after[0]
    assert list(before[1]) == list(after[1]), "the order counts: optimizers go by it"
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])


def code(path, shape, **more):
    return ParametrizeTensor(path, "weight", "spectral", {"shape": list(shape), **more})


FACTORED = {"in": 6, "out": 6, "core": [2, 2], "bias": True, "norm": "ortho"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (code("2", (6, 6)), r"planned for '2\.weight' of shape \(6, 6\), found \(4, 6\)\. Plan again on this model\."),
        (code("3", (4, 6)), r"planned for '3', which Sequential does not have"),
        (code("0", (6, 6)), r"edits the same site twice"),
        (ParametrizeTensor("2", "wait", "spectral", {"shape": [4, 6]}), r"'2\.wait', found it not a parameter"),
        (
            ParametrizeTensor("2", "weight", "sparse", {"shape": [4, 6]}),
            r"no codec of kind 'sparse'; there are spectral",
        ),
        (ParametrizeTensor("2", "weight", "spectral-factored-conv", {"shape": [4, 6]}), r"no codec of kind"),
        (code("2", (4, 6), kept=0), r"the plan for '2\.weight' cannot be built: kept must be"),
        (SwapModule("", "spectral-factored-linear", FACTORED), r"swap the model itself.*Wrap it in nn\.Sequential"),
        (SwapModule("2", "spectral", FACTORED), r"no layer of kind 'spectral'"),
    ],
    ids=repr,
)
def test_a_plan_that_does_not_fit_changes_nothing(bad, message):
    model = net()
    before = fingerprint(model)
    with pytest.raises(PlanError, match=message):
        Plan("test", "Sequential", (code("0", (6, 6)), bad)).apply_(model)
    assert_same(before, fingerprint(model))


def test_a_plan_that_fails_half_way_is_undone(monkeypatch):
    model = net()
    before, x = fingerprint(model), torch.randn(2, 6)
    expected = model(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    edits = (code("0", (6, 6), kept=3), SwapModule("1", "spectral-factored-linear", FACTORED), code("2", (4, 6)))
    real, calls = nn.utils.parametrize.register_parametrization, []

    def fails_the_second_time(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("no more")
        return real(*args, **kwargs)

    monkeypatch.setattr(nn.utils.parametrize, "register_parametrization", fails_the_second_time)
    with pytest.raises(MemoryError):
        Plan("test", "Sequential", edits).apply_(model)
    assert_same(before, fingerprint(model))
    torch.testing.assert_close(model(x), expected, atol=0, rtol=0)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.parameters()} == held, "the parameters are the same objects as before"


def test_a_module_can_be_swapped_by_plan():
    model = net()
    Plan("test", "Sequential", (SwapModule("0", "spectral-factored-linear", FACTORED),)).apply_(model)
    assert isinstance(model[0], FactoredLinear)


def test_a_plan_survives_json():
    made = plan(net(), FrequencyRegularization(keep=0.3), where="0")
    assert made == Plan.from_json(made.to_json())
    for note in ("", "halves it"):
        edit = SwapModule("0", "spectral-factored-linear", FACTORED, note)
        other = Plan("m", "n", (edit,), (Skipped("a", "b"),), 3, 2)
        assert other == Plan.from_json(other.to_json())
        assert ("; halves it" in str(other)) == ('"note"' in other.to_json()) == bool(note)
    with pytest.raises(PlanError, match="has other entries"):
        Plan.from_json(other.to_json().replace('"halves it"', "3"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"edits": [{"edit": "explode"}]}', "3"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_a_plan_prints_every_candidate():
    text = str(plan(net(), FrequencyRegularization(keep=0.3), where="0"))
    assert text.splitlines() == [
        "FrequencyRegularization(keep=0.3) on Sequential: 1 edit, 1 skipped, 70 → 45 parameters",
        "  0.weight  keep 11 of 36 coefficients",
        "  2.weight  skipped: left dense by where",
    ]


def test_a_copy_does_not_see_what_is_coded_or_decoded_in_its_source():
    """torch's parametrize shares one class between a module and its deep copies; ours must not let that show."""
    both = FrequencyRegularization(keep=0.5)
    source = compress_(net(), both, where="0")
    copied = copy.deepcopy(source)
    compress_(copied, both, where="0.bias")
    assert "bias" in source[0]._parameters
    torch.testing.assert_close(source[0].bias, copied[0].bias, atol=1e-6, rtol=1e-6)
    finalize_(copied)
    assert "weight" in source[0].parametrizations
    assert source[0].weight.shape == (6, 6)
    assert type(copied[0]) is nn.Linear
    compress_(copied, both)
    assert source[0].weight.shape == (6, 6)
