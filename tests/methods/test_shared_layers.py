"""A module that stands under several names is compressed as one: swapped, counted, finalized and saved in all its places."""

import copy

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim import measure
from spectrim.measure.staged import macs_in_two_stages
from spectrim.methods.spectra import read_spectra
from spectrim.methods.tying import streams_of
from spectrim.nn import BandedPointwiseConv2d, FlatBandsConv2d
from spectrim.nn.reconstructed import TemplateConv
from spectrim.surgery.chaining import chains


class Twice(nn.Module):
    """A pointwise convolution that is two attributes, and a 3x3 one that a sequence holds twice, within a module that itself has two names."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.mix = nn.Conv2d(32, 32, 1)
        self.again = self.mix
        conv = nn.Conv2d(32, 32, 3, padding=1)
        self.body = nn.Sequential(conv, nn.ReLU(), conv)
        self.neck = self.body
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.again(self.mix(self.stem(x)).relu()).relu()
        return self.head(self.neck(self.body(x)).mean((2, 3)))


PLACES = {"mix": ["mix", "again"], "body.0": ["body.0", "body.2", "neck.0", "neck.2"]}
POINTWISE, FILTERS = st.PointwisePruning, st.ReconstructedFilters


def network():
    torch.manual_seed(0)
    return Twice().eval()


def images(count=4, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def compressed(method):
    return st.compress_(network(), method, calibration=images())


def lossless(method):
    return method(keep=1.0, pays="always") if method is POINTWISE else method(keep=1.0, least=4)


def lossy(method):
    return method(keep=0.3, pays="always") if method is POINTWISE else method(keep=0.4, least=4, stages=1)


CASES = pytest.mark.parametrize(("method", "path"), [(POINTWISE, "mix"), (FILTERS, "body.0")])


def assert_one(model, path, kind):
    """In all its places stands the same module, of this kind."""
    assert len({id(model.get_submodule(name)) for name in PLACES[path]}) == 1
    assert type(model.get_submodule(path)).__name__ == kind


@CASES
def test_one_layer_stands_in_all_places_and_computes_what_the_module_did(method, path):
    model = compressed(lossless(method))
    assert_one(model, path, "BandedPointwiseConv2d" if method is POINTWISE else "TemplateConv")
    dense = network()(images())
    torch.testing.assert_close(model(images()), dense, rtol=1e-4, atol=1e-5)
    st.finalize_(model)
    assert_one(model, path, "Conv2d")
    torch.testing.assert_close(model(images()), dense, rtol=1e-4, atol=1e-5)


@CASES
@pytest.mark.parametrize("example", [False, True])
def test_what_is_cut_is_finalized_everywhere(method, path, example):
    model = compressed(lossy(method))
    st.anneal_(model, 1.0)
    expected = model(images())
    assert not torch.allclose(expected, network()(images()), rtol=1e-4)
    st.finalize_(model, example=images(1) if example else None)
    assert len({id(model.get_submodule(name)) for name in PLACES[path]}) == 1
    assert not isinstance(model.get_submodule(path), BandedPointwiseConv2d | TemplateConv)
    torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)


@CASES
@pytest.mark.parametrize("finalized", [False, True])
def test_a_file_brings_it_back_to_all_places_of_a_fresh_network(tmp_path, method, path, finalized):
    model = compressed(lossy(method))
    st.anneal_(model, 1.0)
    model = st.finalize_(model) if finalized else model
    before = {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    assert before == {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    loaded = st.load_(Twice(), tmp_path / "model.safetensors").eval()
    kind = type(loaded.get_submodule(path)).__name__
    assert kind == type(model.get_submodule(path)).__name__
    assert_one(loaded, path, kind)
    torch.testing.assert_close(loaded(images()), model(images()), rtol=1e-4, atol=1e-5)
    st.save(loaded, tmp_path / "again.safetensors", dtype=torch.float32)
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_every_call_is_counted_in_the_row_of_the_first_name():
    positions, one, three = 16 * 16, 32 * 32, 32 * 32 * 9
    report = measure.macs_report(network(), images(1))
    assert report.by_module["mix"] == 2 * positions * one
    assert report.by_module["body"] == report.by_module["body.0"] == 4 * positions * three
    assert not {"again", "body.2", "neck", "neck.0"} & report.by_module.keys()
    assert report.total == report.by_module[""] == positions * (2 * one + 4 * three + 27 * 32) + 32 * 5


class Apart(nn.Module):
    """A pointwise convolution that two modules hold, of which only the second one calls it."""

    def __init__(self, *, banded):
        super().__init__()
        mix = BandedPointwiseConv2d(4, 4, (2, 2), kept=[1, 2, 3, 4]) if banded else nn.Conv2d(4, 4, 1)
        self.holds, self.calls = nn.Sequential(mix, nn.ReLU()), nn.Sequential(nn.ReLU(), mix)

    def forward(self, x):
        return self.calls(x)


@pytest.mark.parametrize("banded", [False, True])
def test_what_holds_a_shared_module_without_calling_it_multiplies_nothing(banded):
    report = measure.macs_report(Apart(banded=banded), torch.zeros(1, 4, 8, 8))
    assert report.by_module == dict.fromkeys(("", "holds.0", "calls"), report.total)
    assert report.total == (64 * (10 + 10 + 4 * 4) if banded else 64 * 16)


def test_the_plan_counts_both_calls_and_says_so():
    target = st.PointwisePruning(target="macs:0.99")
    plan = st.plan(network(), target, where="mix", calibration=images())
    edit = plan.edits[0]
    assert (edit.path, edit.spec["calls"], edit.spec["macs"][0]) == ("mix", 2, 2 * 16 * 16 * 32 * 32)
    assert edit.summary().endswith("to transform, in 2 calls")
    cut = plan.apply_(network())
    assert measure.macs(cut, images(1)) == measure.macs(st.finalize_(cut), images(1)) == plan.budget.left
    assert plan.budget.dense == measure.macs(network(), images(1))
    assert st.Plan.from_json(plan.to_json()) == plan


def test_a_budget_of_rebuilt_filters_counts_all_calls():
    model = network()
    plan = st.plan(model, st.ReconstructedFilters(target="macs:0.5", least=4, stages=1), calibration=images())
    assert [edit.path for edit in plan.edits] == ["body.0"]
    assert sum(p.numel() for p in model.parameters()) == plan.before
    st.anneal_(plan.apply_(model), 1.0)
    assert macs_in_two_stages(model, images(1)) == pytest.approx(plan.budget.left, rel=0.02)


def test_a_change_through_both_calls_is_that_of_a_layer_with_twice_the_weight():
    """To first order, f(x) + f(x) changes as 2 f(x) does, which is squared; the mean is one over images and not over calls."""
    layer, x = nn.Conv2d(3, 4, 1), images()
    once, both = nn.Sequential(layer), nn.Sequential(layer)
    both.forward = lambda x: layer(x) + layer(x)
    one, two = (read_spectra(model, {"0": layer}, [x[:3], x[3:]])["0"] for model in (once, both))
    assert (one.calls, two.calls) == (1, 2)
    torch.testing.assert_close(two.worth, 4 * one.worth)
    torch.testing.assert_close(two.energy, one.energy)


def test_undoing_puts_the_module_back_in_all_places():
    plan = st.plan(network(), lossy(POINTWISE), calibration=images())
    model = network()
    mix = model.mix
    wrong = st.Plan("", "", (*plan.edits, st.surgery.ParametrizeTensor("mix", "nothing", "spectral", {"shape": [1]})))
    with pytest.raises(st.PlanError):
        wrong.apply_(model)
    assert model.mix is model.again is mix


def test_a_plan_that_swaps_one_module_under_two_names_is_refused():
    edit = st.plan(network(), lossy(POINTWISE), calibration=images()).edits[0]
    other = type(edit)("again", edit.kind, edit.spec)
    with pytest.raises(st.PlanError, match="the plan swaps 'mix' and 'again', which are one module"):
        st.Plan("", "", (edit, other)).apply_(network())
    model = st.Plan("", "", (other,)).apply_(network())
    assert isinstance(model.mix, BandedPointwiseConv2d)
    assert model.mix is model.again


def test_a_file_of_two_layers_is_refused_where_they_are_one_module(tmp_path):
    model = network()
    model.again = copy.deepcopy(model.mix)
    st.compress_(model, lossy(POINTWISE), calibration=images())
    assert model.again is not model.mix
    st.save(model, tmp_path / "model.safetensors")
    with pytest.raises(st.ArtifactError, match="'mix' and 'again' are two layers in the file, in Twice they are one"):
        st.load_(Twice(), tmp_path / "model.safetensors")


def test_a_file_of_one_layer_is_refused_where_they_are_two_modules(tmp_path):
    st.save(compressed(lossy(POINTWISE)), tmp_path / "model.safetensors")
    apart = network()
    apart.again = copy.deepcopy(apart.mix)
    with pytest.raises(st.ArtifactError, match=r"'again\.kept'.*Load it into the architecture that it was saved from"):
        st.load_(apart, tmp_path / "model.safetensors")


def test_bands_of_a_shared_layer_are_learned_and_saved(tmp_path):
    model = compressed(st.PointwisePruning(keep=0.5, learn=True, pays="always"))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(12):
        optimizer.zero_grad()
        (model.train()(images()).square().mean() + st.penalty(model)).backward()
        optimizer.step()
        st.anneal_(model, (step + 1) / 12)
    assert model.mix.kept.float().mean() <= 32
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = st.load_(Twice(), tmp_path / "model.safetensors").eval()
    torch.testing.assert_close(loaded(images()), model.eval()(images()), rtol=1e-4, atol=1e-5)


def test_filters_are_rebuilt_from_what_all_calls_of_a_step_read():
    conv = nn.Conv2d(4, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), conv).train()
    method = st.ReconstructedFilters(keep=0.5, least=2, stages=2, assign="outputs", start="outputs")
    st.compress_(model, method, where="1")
    read = []
    model[1].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach()))
    for step in range(2):
        for size in (8, 6):
            model(images(2, size=size))
        assert [tuple(each.shape[2:]) for each in model[1]._seen] == [(8, 8), (6, 6)]
        assert all(torch.equal(*pair) for pair in zip(model[1]._seen, read[-2:], strict=True))
        st.anneal_(model, (step + 1) / 2)


def test_a_repair_says_that_it_leaves_a_layer_of_several_calls():
    model = network()
    plan = st.plan(model, lossy(POINTWISE), calibration=images(16))
    repair = st.repair_(plan.apply_(copy.deepcopy(model)), model, plan=plan, calibration=images(16))
    assert {row.site: row.reason for row in repair.left}["mix"] == "is called 2 times"


class Joins(nn.Module):
    """Two streams that one convolution reads both of."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.both = nn.Conv2d(8, 24, 1)
        self.again = nn.Sequential(self.both, nn.ReLU())
        self.own = nn.Conv2d(8, 24, 1)

    def forward(self, x):
        left, right = self.left(x), self.right(x.square())
        return self.own(left) + self.both(left) + self.again(right)


def test_a_stream_that_a_layer_of_several_calls_reads_is_not_chained():
    model = Joins().eval()
    assert streams_of(model, images(1), ["own", "both"]) == {"own": "left", "both": "left"}
    st.compress_(model, st.PointwisePruning(keep=0.3, pays="always", tie="stage"), calibration=images())
    assert model.both is model.again[0]
    assert torch.equal(model.both.kept, model.own.kept)
    assert chains(model, images(1)) == []
    expected = model(images())
    st.finalize_(model, example=images(1))
    assert not any(isinstance(module, FlatBandsConv2d) for module in model.modules())
    torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decode", [True, False])
def test_frequency_regularization_codes_it_once(tmp_path, decode):
    model = compressed(st.FrequencyRegularization(keep=0.1, schedule="at-once"))
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = st.load_(Twice(), tmp_path / "model.safetensors", decode=decode).eval()
    assert loaded.mix is loaded.again
    torch.testing.assert_close(loaded(images()), model(images()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(st.finalize_(model)(images()), loaded(images()), rtol=1e-4, atol=1e-5)


def test_another_name_in_where_is_answered_with_the_first():
    with pytest.raises(
        st.SiteError, match=r"where='again' matches none.*'again' is another name of 'mix', which selects it"
    ):
        st.plan(network(), lossy(POINTWISE), where="again", calibration=images())
