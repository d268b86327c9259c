"""Reconstructed filters as a method: the paper's counts, plans, targets, files, and what is refused."""

import copy
import time

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import spectrim as st
from spectrim.measure.choice import Choice
from spectrim.nn import components
from spectrim.nn.conv_sizes import ConvSizes
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.template_costs import products, stored, stored_by_equation
from spectrim.nn.two_stage import TwoStageConv
from spectrim.zoo.resnet_cifar import resnet20, resnet56
from spectrim.zoo.vgg import vgg16_bn

NETWORKS = {"vgg16": vgg16_bn, "resnet56": resnet56}


def convolutions(model: nn.Module, side: int) -> list[tuple[ConvSizes, int]]:
    """Sizes and positions of every convolution."""
    found: list[tuple[ConvSizes, int]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda each, _, out: found.append((ConvSizes.of(each), out.shape[2] * out.shape[3]))
            )
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    return found


@pytest.mark.parametrize(
    ("network", "rate", "expected"),
    [
        ("vgg16", 0.3, (29.43, 29.89, 64.82)),
        ("vgg16", 0.5, (49.11, 49.69, 74.67)),
        ("vgg16", 0.7, (68.79, 69.50, 84.52)),
        ("vgg16", 0.9, (88.05, 89.46, 94.45)),
        ("resnet56", 0.3, (28.33, 28.59, 63.35)),
        ("resnet56", 0.5, (46.12, 47.57, 72.42)),
        ("resnet56", 0.7, (58.36, 65.76, 81.15)),
        ("resnet56", 0.9, (65.76, 79.44, 87.75)),
    ],
)
def test_reductions_at_uniform_rates_are_the_papers(network, rate, expected):
    model = NETWORKS[network]()
    layers = convolutions(model, 32)
    dense_macs = sum(positions * sizes.inside * sizes.outside * sizes.taps for sizes, positions in layers)
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    classifier = 512 * 10 + 10 if network == "vgg16" else 64 * 10 + 10
    convs = sum(sizes.inside * sizes.outside * sizes.taps for sizes, _ in layers)
    assert (dense_macs, convs) == {"vgg16": (313_196_544, 14_710_464), "resnet56": (125_485_056, 848_304)}[network]
    dense = convs + norms + classifier
    macs, real, by_equation = 0, norms + classifier, norms + classifier
    for number, (sizes, positions) in enumerate(layers):
        count = max(8, int((1 - rate) * sizes.outside + 0.5)) if number else sizes.outside
        groups = 2 if number else 1
        macs += positions * products(sizes, count, groups=groups)
        real += stored(sizes, count, groups=groups)
        by_equation += stored_by_equation(sizes, count, groups=groups)
    found = tuple(100 * (1 - share) for share in (macs / dense_macs, real / dense, by_equation / dense))
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("pointwise", "rate", "expected"),
    [
        (True, 0.3, (28.8, 27.4, 59.5)),
        (True, 0.5, (48.0, 45.6, 68.6)),
        (True, 0.7, (65.1, 63.8, 77.6)),
        (True, 0.9, (78.7, 81.0, 86.2)),
        (False, 0.7, (29.6, 30.7)),
        (False, 0.8, (32.7, 35.0)),
        (False, 0.9, (34.8, 38.8)),
        (False, 1.0, (35.1, 39.8)),
    ],
)
def test_reductions_of_resnet50_are_the_papers_with_and_without_kernels_of_one_tap(pointwise, rate, expected):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.resnet50()
        layers = convolutions(model, 224)
    dense, dense_macs = 25_557_032, 4_087_136_256
    assert sum(p.numel() for p in model.parameters()) == dense
    assert sum(positions * sizes.inside * sizes.outside * sizes.taps for sizes, positions in layers) == dense_macs
    macs, real, by_equation = dense_macs, dense, dense
    for sizes, positions in layers[1:]:
        if sizes.taps > 1 or pointwise:
            count, whole = max(32, int((1 - rate) * sizes.outside + 0.5)), sizes.inside * sizes.outside * sizes.taps
            macs -= positions * (whole - products(sizes, count, groups=2))
            real -= whole - stored(sizes, count, groups=2)
            by_equation -= whole - stored_by_equation(sizes, count, groups=2)
    found = (100 * (1 - macs / dense_macs), 100 * (1 - real / dense), 100 * (1 - by_equation / dense))
    assert found[: len(expected)] == pytest.approx(expected, abs=0.06)


def test_a_plan_names_every_convolution_and_touches_none():
    model = resnet20()
    before = copy.deepcopy(model.state_dict())
    plan = st.plan(model, st.ReconstructedFilters(keep=0.6))
    assert len(plan.edits) == 18
    assert [(row.site, row.reason) for row in plan.skipped] == [("conv1", "is the first convolution")]
    assert plan.before == 269_722
    assert 0.55 < plan.after / plan.before < 0.7
    assert len({edit.summary() for edit in plan.edits}) > 3, "each layer has a count of its own"
    assert sum(int(edit.summary().split("; about ")[1].split()[0]) for edit in plan.edits) == round(0.4 * 672)
    assert st.Plan.from_json(plan.to_json()) == plan
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_plan_that_keeps_all_filters_says_so():
    plan = st.plan(resnet20(), st.ReconstructedFilters(keep=1.0))
    assert plan.before == plan.after
    said = "rebuild at most 0 of 16 filters by scalar transformations for each of 2 groups; keep=1 rebuilds none"
    assert plan.edits[0].summary() == said


@pytest.mark.parametrize("target", ["macs:0.64", "macs:0.52", "params:0.5", "params:150000"])
def test_a_target_is_met_and_used_up(target):
    model, image = resnet20().eval(), torch.rand(1, 3, 32, 32)
    plan = st.plan(model, st.ReconstructedFilters(target=target), calibration=image)
    assert plan.budget is not None
    limit = float(target.split(":")[1])
    limit = limit / plan.budget.dense if limit > 1 else limit
    assert limit - 0.02 < plan.budget.fraction <= limit
    plan.apply_(model)
    st.anneal_(model, 1.0)
    layers = [each for _, each in components(model) if isinstance(each, TemplateConv)]
    if target.startswith("params"):
        small = sum(p.numel() for layer in layers for p in layer.stored().parameters())
        others = sum(
            p.numel() for n, p in model.named_parameters() if not any(p is q for m in layers for q in m.parameters())
        )
        assert small + others == plan.budget.left == plan.after


@pytest.mark.parametrize("method", [{"keep": 0.6}, {"target": "params:0.22"}])
def test_groups_that_share_slices_are_counted_by_the_papers_equation_in_the_plan_and_in_the_file(method, tmp_path):
    model = resnet20().eval()
    how = st.ReconstructedFilters(**method, groups=4, share_groups=True, stages=1)
    plan = st.plan(model, how)
    assert "4 groups, which share slices that start as a least-squares fit" in str(plan)
    plan.apply_(model)
    layers = [each for _, each in components(model) if isinstance(each, TemplateConv)]
    assert all(each.weight.shape[1] == each.sizes.inside // 4 for each in layers)
    st.anneal_(model, 1.0)
    images = torch.rand(2, 3, 32, 32)
    expected = model(images)
    st.save(model, tmp_path / "small.safetensors", dtype=torch.float32)
    loaded = st.load_(resnet20(), tmp_path / "small.safetensors", decode=False).eval()
    torch.testing.assert_close(loaded(images), expected, atol=1e-5, rtol=1e-5)
    numbers = sum(each.numel() for each in loaded.parameters())
    by_equation = sum(
        stored_by_equation(each.sizes, each.sizes.outside - len(each.pruned), groups=4) for each in layers
    )
    left_alone = plan.before - sum(each.sizes.inside * each.sizes.outside * each.sizes.taps for each in layers)
    assert numbers == plan.after == by_equation + left_alone
    if "target" in method:
        assert 0.21 * plan.before < numbers <= 0.22 * plan.before
    torch.testing.assert_close(st.finalize_(loaded)(images), expected, atol=1e-5, rtol=1e-4)


def test_annealing_reaches_the_fraction_over_all_layers_and_files_shrink(tmp_path):
    torch.manual_seed(0)
    model = resnet20().eval()
    st.compress_(model, st.ReconstructedFilters(keep=0.5, groups=1))
    dense = st.save(resnet20(), tmp_path / "dense.safetensors").total
    st.anneal_(model, 1.0)
    layers = [each for _, each in components(model) if isinstance(each, TemplateConv)]
    assert sum(len(each.pruned) for each in layers) == round(0.5 * sum(each.sizes.outside for each in layers))
    small = st.save(model, tmp_path / "small.safetensors").total
    assert small < 0.65 * dense
    loaded = st.load_(resnet20(), tmp_path / "small.safetensors").eval()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), model(x), atol=5e-2, rtol=5e-2)
    assert all(each.rebuilding is None for _, each in components(loaded) if isinstance(each, TemplateConv))
    assert any(isinstance(each, TemplateConv) for _, each in components(loaded))
    expected = loaded(x)
    torch.testing.assert_close(st.finalize_(loaded)(x), expected, atol=1e-4, rtol=1e-4)
    assert not list(components(loaded))


def test_the_fastest_form_is_taken_where_it_is_measured(monkeypatch):
    model = resnet20().eval()
    st.compress_(model, st.ReconstructedFilters(keep=0.5, groups=1), where="layer3.*")
    st.anneal_(model, 1.0)
    x = torch.rand(1, 3, 32, 32)
    expected = model(x)

    def last_wins(forms, x, *, site, **_):
        return Choice(site, tuple(x.shape), dict.fromkeys(forms, 1.0), list(forms)[-1])

    monkeypatch.setattr("spectrim.measure.layer_forms.fastest", last_wins)
    choices: list[Choice] = []
    st.finalize_(model, example=x, choices=choices)
    swapped = {path for path, module in model.named_modules() if isinstance(module, TwoStageConv)}
    assert choices.pop().site == "(the model)"
    assert swapped == {choice.site for choice in choices if choice.taken != "dense"}
    assert swapped
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)


def test_layers_that_win_alone_and_lose_together_are_dense_again(monkeypatch):
    torch.manual_seed(0)
    model = resnet20().eval()
    st.compress_(model, st.ReconstructedFilters(keep=0.5, groups=1), where="layer3.0.*")
    st.anneal_(model, 1.0)
    x = torch.rand(1, 3, 32, 32)
    expected, whole = model(x), []

    def alone(forms, x, *, site, **_):
        if site == "(the model)":
            whole.extend((name, each(x), stages(each)) for name, each in forms.items())
        return Choice(site, tuple(x.shape), dict.fromkeys(forms, 1.0), list(forms)[0 if whole else -1])

    def stages(network):
        return sum(isinstance(module, TwoStageConv) for module in network.modules())

    monkeypatch.setattr("spectrim.measure.layer_forms.fastest", alone)
    choices: list[Choice] = []
    st.finalize_(model.train(), example=x, choices=choices)
    assert [(name, count) for name, _, count in whole] == [("dense", 0), ("as chosen", 2)]
    for _, found, _ in whole:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert [(choice.site, choice.taken) for choice in choices] == [
        ("layer3.0.conv1", "dense"), ("layer3.0.conv2", "dense"), ("(the model)", "dense"),
    ]  # fmt: skip
    assert not stages(model)
    assert all(module.training for module in model.modules())


def test_what_is_not_faster_stays_dense_and_what_was_measured_is_told(monkeypatch):
    model = resnet20().eval()
    st.compress_(model, st.ReconstructedFilters(keep=0.5, groups=1), where="layer3.0.*")
    st.anneal_(model, 1.0)
    monkeypatch.setattr(TwoStageConv, "forward", lambda self, x: (time.sleep(0.01), self.sizes.plain()(x))[1])
    choices: list[Choice] = []
    st.finalize_(model, example=torch.rand(1, 3, 32, 32), choices=choices)
    assert [choice.site for choice in choices] == ["layer3.0.conv1", "layer3.0.conv2"]
    assert choices[0].input == (1, 32, 16, 16)
    assert all(choice.taken == "dense" and choice.ms["two stages"] > 10 for choice in choices)
    assert not any(isinstance(module, TwoStageConv) for module in model.modules())


def test_after_cuts_of_channels_and_under_frequency_regularization_in_one_file(tmp_path):
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32)
    model = st.compress_(resnet20().eval(), st.CFDP(keep=0.75, score="l2"), calibration=images)
    st.compress_(model, st.ReconstructedFilters(keep=0.6, groups=1))
    st.anneal_(model, 1.0)
    st.save(model, tmp_path / "first.safetensors", dtype=torch.float32)
    smaller = st.load_(resnet20(), tmp_path / "first.safetensors").eval()
    st.compress_(smaller, st.FrequencyRegularization(keep=0.3))
    assert any(edit.startswith("layer1.0.conv1.parametrizations.weight") for edit in smaller.state_dict())
    st.anneal_(smaller, 1.0)
    st.save(smaller, tmp_path / "both.safetensors", dtype=torch.float32)
    loaded = st.load_(resnet20(), tmp_path / "both.safetensors").eval()
    torch.testing.assert_close(loaded(images), smaller(images), atol=1e-4, rtol=1e-4)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("first", "both")]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize(
    ("convolution", "norm", "sides"), [(nn.Conv1d, nn.BatchNorm1d, (40,)), (nn.Conv3d, nn.BatchNorm3d, (6, 7, 8))]
)
def test_signals_and_volumes_go_all_the_way(convolution, norm, sides, tmp_path):
    def network():
        return nn.Sequential(
            convolution(2, 16, 3, padding=1), nn.ReLU(), convolution(16, 24, 3, stride=2, padding=1, bias=False),
            norm(24), nn.ReLU(), convolution(24, 16, 3), nn.Flatten(),
        )  # fmt: skip

    torch.manual_seed(0)
    model, x = network().train(), torch.rand(4, 2, *sides)
    st.compress_(model, st.ReconstructedFilters(target="macs:0.7", assign="outputs", start="outputs"), calibration=x)
    for step in range(3):
        model(x)
        st.anneal_(model, (step + 1) / 3)
    expected = model.eval()(x)
    st.save(model, tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = st.load_(network(), tmp_path / "model.safetensors", decode=False).eval()
    torch.testing.assert_close(loaded(x), expected, atol=1e-5, rtol=1e-4)
    choices: list[Choice] = []
    st.finalize_(loaded, example=x, choices=choices)
    torch.testing.assert_close(loaded(x), expected, atol=1e-5, rtol=1e-4)
    assert [choice.site for choice in choices][:2] == ["2", "5"]
    assert all("two stages" in choice.ms for choice in choices[:2])


def test_what_is_still_to_be_rebuilt_is_not_coded():
    model = st.compress_(resnet20(), st.ReconstructedFilters(keep=0.5))
    plan = st.plan(model, st.FrequencyRegularization(keep=0.1))
    reasons = {row.site: row.reason for row in plan.skipped}
    assert "still to be rebuilt" in reasons["layer1.0.conv1.weight"]


def live(**settings: object) -> nn.Module:
    """A network whose filters have just been rebuilt, in training mode."""
    torch.manual_seed(0)
    model = st.compress_(resnet20(), st.ReconstructedFilters(keep=0.6, stages=2, **settings))
    st.anneal_(model, 0.4)
    st.anneal_(model, 1.0)
    return model


@pytest.mark.parametrize("share_groups", [False, True])
def test_templates_are_coded_as_soon_as_the_last_filter_is_rebuilt_without_a_file_between(share_groups, tmp_path):
    images = torch.rand(2, 3, 32, 32)
    model = live(share_groups=share_groups)
    st.save(model, tmp_path / "first.safetensors", dtype=torch.float32)
    through = st.load_(resnet20(), tmp_path / "first.safetensors", decode=False).train()
    before = copy.deepcopy(model).eval()(images)
    method = st.FrequencyRegularization(keep=0.3, floor=8)
    plan = st.plan(model, method)
    assert [each.to_json() for each in plan.edits] == [each.to_json() for each in st.plan(through, method).edits]
    assert plan.after == st.plan(through, method).after
    assert plan.before == sum(each.numel() for each in model.parameters())  # filters out of use are still there
    for network in (model, through):
        st.compress_(network, method)
    assert model.layer1[0].conv1.training
    torch.testing.assert_close(copy.deepcopy(model).eval()(images), before, atol=1e-3, rtol=1e-3)
    for network in (model, through):
        st.anneal_(network, 1.0)
    assert torch.equal(copy.deepcopy(model).eval()(images), copy.deepcopy(through).eval()(images))
    st.save(model, tmp_path / "both.safetensors", dtype=torch.float32)
    loaded = st.load_(resnet20(), tmp_path / "both.safetensors").eval()
    torch.testing.assert_close(loaded(images), model.eval()(images), atol=1e-4, rtol=1e-4)


def test_a_function_is_asked_about_the_layers_that_stand_in_the_model():
    model = live()
    mine, asked = {id(module) for module in model.modules()}, []
    chosen = model.layer1[0].conv1

    def where(name: str, module: nn.Module) -> bool:
        asked.append(module)
        return module is chosen and name.endswith("weight")

    found = st.plan(model, st.FrequencyRegularization(keep=0.5), where=where)
    assert {id(module) for module in asked} <= mine
    assert [edit.site for edit in found.edits] == ["layer1.0.conv1.weight"]


def test_layers_whose_templates_are_not_coded_stay_live():
    model = live()
    first, second = model.layer1[0].conv1, model.layer1[0].conv2
    st.compress_(
        model, st.FrequencyRegularization(keep=0.5), where=["layer1.0.conv1.weight", "layer1.0.conv1.transformations"]
    )
    assert model.layer1[0].conv1 is not first
    assert model.layer1[0].conv1.rebuilding is None
    assert len(model.layer1[0].conv1.parametrizations) == 2
    assert model.layer1[0].conv2 is second


def test_a_plan_that_fails_leaves_the_live_layers(monkeypatch):
    model = live()
    plan = st.plan(
        model, st.FrequencyRegularization(keep=0.5), where=["layer1.0.conv1.weight", "layer1.0.conv2.weight"]
    )
    first = model.layer1[0].conv1
    second = model.layer1[0].conv2
    register, calls = parametrize.register_parametrization, []

    def failing(*args, **how):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("no room")
        return register(*args, **how)

    monkeypatch.setattr(parametrize, "register_parametrization", failing)
    with pytest.raises(RuntimeError, match="no room"):
        plan.apply_(model)
    assert (model.layer1[0].conv1, model.layer1[0].conv2) == (first, second)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (nn.Conv2d(16, 16, 1), "has a kernel of one tap; include_pointwise=True takes it"),
        (nn.Conv2d(16, 16, 3, groups=4), "has 4 groups"),
        (nn.Conv2d(16, 16, 3, padding_mode="reflect"), "pads in the mode 'reflect'"),
        (nn.Conv2d(16, 16, 4, padding="same"), "pads one side more than the other"),
        (nn.Conv2d(16, 8, 3), "has 8 filters, and 8 stay"),
        (nn.ConvTranspose2d(16, 16, 3), "is a ConvTranspose2d, whose forward is not known"),
    ],
)
def test_what_is_not_rebuilt_has_a_reason(host, reason):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), host)
    plan = st.plan(net, st.ReconstructedFilters(keep=0.5))
    assert {row.site: row.reason for row in plan.skipped}["1"] == reason
    assert not plan.edits


def test_even_and_dilated_kernels_are_rebuilt():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 2), nn.Conv2d(16, 16, 3, dilation=2, padding="same")
    ).eval()
    x = torch.rand(2, 3, 12, 12)
    expected = net(x)
    plan = st.plan(net, st.ReconstructedFilters(keep=0.9, groups=3))
    assert "for each of 2 groups; 2 groups, as 3 does not divide 16 channels; about " in plan.edits[0].summary()
    assert "divide" not in str(st.plan(net, st.ReconstructedFilters(keep=0.9, groups=4)))
    plan.apply_(net)
    assert torch.equal(net(x), expected)
    assert net[1].groups == 2  # 3 does not divide 16
    st.anneal_(net, 1.0)
    before = net(x)
    torch.testing.assert_close(st.finalize_(net)(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ({"keep": 5}, r"keep must lie in \(0, 1\], got 5"),
        ({"keep": 0.5, "target": "macs:0.5"}, "keep and target exclude each other"),
        ({"target": "latency:0.5"}, "target must be QUANTITY:NUMBER with one of macs, params"),
        ({"keep": 0.5, "groups": 0}, "groups must be a whole number of at least 1"),
        ({"keep": 0.5, "share_groups": 1}, "share_groups must be True or False .*, got 1"),
        ({"keep": 0.5, "include_pointwise": "yes"}, "include_pointwise must be True or False .*, got 'yes'"),
        ({"keep": 0.5, "family": "shear"}, "family must be one of"),
        ({"keep": 0.5, "least": 0}, "least must be a whole number of at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(what, match):
    with pytest.raises(ValueError, match=match):
        st.ReconstructedFilters(**what)


def test_fewer_templates_than_the_least_cannot_be_asked_for():
    model = resnet20()
    with pytest.raises(
        ValueError, match=r"keep=0.01 asks for 7 templates of 672 filters, and 8 in each of 18 layers are 144"
    ):
        st.plan(model, st.ReconstructedFilters(keep=0.01))
    with pytest.raises(
        ValueError, match=r"target params:0.1 is out of reach: 0\.\d+ of 269,722 are left with 8 templates"
    ):
        st.plan(model, st.ReconstructedFilters(target="params:0.1"))
    with pytest.raises(
        ValueError, match=r"target macs:0\.5 counts multiplications, .* one image of that size is enough"
    ):
        st.plan(model, st.ReconstructedFilters(target="macs:0.5"))


def test_what_is_coded_or_rebuilt_already_is_refused():
    coded = st.compress_(resnet20(), st.FrequencyRegularization(keep=0.1))
    with pytest.raises(st.OrderError, match="weights are already coded"):
        st.plan(coded, st.ReconstructedFilters(keep=0.5))
    rebuilt = st.compress_(resnet20(), st.ReconstructedFilters(keep=0.5))
    with pytest.raises(st.OrderError, match="18 are already swapped"):
        st.plan(rebuilt, st.ReconstructedFilters(keep=0.5))
    with pytest.raises(st.OrderError, match="CFDP cuts channels, but 18 modules are already swapped"):
        st.plan(rebuilt, st.CFDP(keep=0.5), calibration=torch.rand(1, 3, 32, 32))
    with pytest.raises(st.SiteError, match="Sequential has none"):
        st.plan(nn.Sequential(nn.Linear(2, 2)), st.ReconstructedFilters(keep=0.5))


def test_kernels_that_a_family_cannot_turn_are_left_alone_with_a_reason():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, (3, 2)), nn.Conv2d(16, 16, 3, padding=1)).eval()
    plan = st.plan(net, st.ReconstructedFilters(keep=0.8, family="rotation"))
    assert [edit.path for edit in plan.edits] == ["2"]
    reasons = {row.site: row.reason for row in plan.skipped}
    assert reasons["1"] == "rotation turns square kernels of two dimensions, got one of (3, 2). Use scalar or matrix."


@pytest.mark.parametrize("family", ["rotation", "affine", "affine-moved", "matrix"])
@pytest.mark.parametrize("layer", [nn.Conv2d(16, 16, 2), nn.Conv2d(16, 16, 4, dilation=2, stride=2)])
def test_even_and_dilated_kernels_are_turned_about_their_centre(family, layer):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), layer).eval()
    st.compress_(net, st.ReconstructedFilters(keep=0.6, family=family, groups=2))
    x = torch.rand(2, 3, 12, 12)
    st.anneal_(net, 1.0)
    assert len(net[1].pruned) == 6
    with torch.no_grad():
        expected = net(x)
        staged = net[1].alternatives()["two stages"].eval()
        torch.testing.assert_close(staged(net[0](x)), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(st.finalize_(net)(x), expected, atol=1e-5, rtol=1e-4)


def test_kernels_of_one_tap_are_rebuilt_when_they_are_asked_for():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 1)).eval()
    st.compress_(net, st.ReconstructedFilters(keep=0.5, groups=1, include_pointwise=True))
    st.anneal_(net, 1.0)
    assert len(net[1].pruned) == 16
    filters = net[1].filters()[:, :, 0, 0]
    assert int(torch.linalg.matrix_rank(filters)) <= 16  # a factor alone turns no filter
    for n in net[1].pruned:
        pair = torch.stack([filters[n], filters[int(net[1].template[n])]])
        assert int(torch.linalg.matrix_rank(pair, rtol=1e-4)) == 1


def test_a_target_of_multiplications_below_what_the_least_templates_need_is_refused():
    with pytest.raises(
        ValueError, match=r"target macs:0.01 is out of reach: 0\.\d+ of [\d,]+ are left with 8 templates"
    ):
        st.plan(resnet20(), st.ReconstructedFilters(target="macs:0.01"), calibration=torch.rand(1, 3, 32, 32))


def test_a_network_whose_layers_are_all_too_small_is_left_as_it_is():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    plan = st.plan(net, st.ReconstructedFilters(keep=0.5, least=64))
    assert not plan.edits
    assert {row.site: row.reason for row in plan.skipped}["1"] == "has 8 filters, and 64 stay"


def test_one_group_has_nothing_to_share():
    with pytest.raises(ValueError, match="share_groups=True is for several groups, got groups=1"):
        st.ReconstructedFilters(keep=0.5, groups=1, share_groups=True)


@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_a_target_holds_however_training_moves_the_ranking(quantity):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, stride=2), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 16, 3))
    positions = {1: 10 * 10, 2: 8 * 8, 3: 6 * 6} if quantity == "macs" else dict.fromkeys((1, 2, 3), 1)
    method = st.ReconstructedFilters(target=f"{quantity}:0.6", stages=4, groups=1)
    plan = st.plan(net, method, calibration=torch.zeros(1, 3, 24, 24))
    plan.apply_(net)
    torch.manual_seed(0)
    for quarter in range(1, 5):
        net[quarter % 3 + 1].weight.data.mul_(3 * torch.rand(len(net[quarter % 3 + 1].weight), 1, 1, 1))
        st.anneal_(net, quarter / 4)
    saved = {
        place: (layer := net[place]).sizes.inside * 9 * len(layer.pruned) - 9 * len(layer.pruned) for place in positions
    }
    left = plan.budget.dense - sum(positions[place] * count for place, count in saved.items())
    one = max(positions[place] * net[place].sizes.inside * 9 for place in positions)
    assert 0.6 * plan.budget.dense - one < left <= 0.6 * plan.budget.dense
    planned = st.ReconstructedFilters(keep=0.5).plan(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)))
    assert "price" not in planned.edits[0].spec


def test_gradients_rank_filters_only_once_there_were_some():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3))
    st.compress_(net, st.ReconstructedFilters(keep=0.5, saliency="taylor", stages=2))
    with pytest.raises(ValueError, match="Anneal after the backward pass"):
        st.anneal_(net, 0.5)
    net(torch.rand(2, 3, 8, 8)).square().sum().backward()
    st.anneal_(net, 0.5)
    assert len(net[1].pruned) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"family": "rotation"}, "each starts as its template, as start='lstsq' fits no rotation maps"),
        ({"family": "matrix", "start": "outputs"}, "each starts closest to its filter, as start='outputs'"),
        ({"family": "rotation", "start": "ones"}, ""),
        ({"start": "outputs"}, ""),
    ],
)
def test_the_plan_says_where_a_family_cannot_start_as_asked(settings, said):
    plan = st.plan(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)), st.ReconstructedFilters(keep=0.5, **settings)
    )
    note = plan.edits[0].note
    assert said in note if said else "starts" not in note
