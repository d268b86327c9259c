"""CFDP: which channels go, how many, and what is refused."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

import spectrim as st
from spectrim.measure import macs, published_macs
from spectrim.methods.cfdp import CFDP
from spectrim.methods.cfdp_rates import fractions
from spectrim.methods.cfdp_scores import SCORES, frequency_score
from spectrim.methods.cfdp_widths import kept_units
from spectrim.methods.features import mean_scores
from spectrim.surgery.channels import Group, groups
from spectrim.zoo.googlenet import googlenet
from spectrim.zoo.resnet_cifar import resnet20, resnet56, resnet110
from spectrim.zoo.vgg import vgg16_bn


def resnet50():
    return torchvision.models.resnet50()


def widths(model):
    return {name: module.out_channels for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize(
    ("name", "make", "side", "parameters", "plain", "published"),
    [
        ("vgg16_bn", vgg16_bn, 32, 2_766_541, 130.567, 131.174),
        ("vgg16_bn-2.50M", vgg16_bn, 32, 2_505_793, 104.243, 104.78),
        ("vgg16_bn-1.90M", vgg16_bn, 32, 1_901_836, 66.521, 66.95),
        ("resnet56", resnet56, 32, 660_157, 89.460, 90.346),
        ("resnet110", resnet110, 32, 1_046_000, 139.006, 140.543),
        ("googlenet", googlenet, 32, 2_857_760, 643.80, 649.192),
        ("resnet50", resnet50, 224, 15_091_575, 2240.37, 2258.93),
    ],
)
def test_the_papers_rates_give_the_papers_sizes(name, make, side, parameters, plain, published):
    model, x = make().eval(), torch.rand(1, 3, side, side)
    plan = st.plan(model, CFDP(keep=name, score="random", round_to=1), calibration=torch.cat([x, x]))
    plan.apply_(model)
    found = sum(p.numel() for p in model.parameters())
    assert plan.after == found
    if name == "resnet110":  # the digest gives it in millions
        assert found == pytest.approx(parameters, abs=500)
    else:
        assert found == parameters
    assert macs(model, x) / 1e6 == pytest.approx(plain, abs=0.006)
    assert published_macs(model, x) / 1e6 == pytest.approx(published, abs=0.006)
    wide = widths(model)
    if name == "googlenet":
        assert [wide[f"a5.{layer}"] for layer in ("branch2.3", "branch3.3", "branch3.6")] == [63, 25, 25]
    if name == "vgg16_bn":
        assert list(wide.values()) == [50, 50, 101, 101, 202, 202, 202, *[128] * 5, 512]
    if name == "resnet56":
        assert wide["conv1"] == 16
        assert [wide[f"layer{n}.3.conv2"] for n in (1, 2, 3)] == [13, 26, 64]
        assert [wide[f"layer{n}.3.conv1"] for n in (1, 2, 3)] == [13, 26, 52]
    if name == "resnet50":
        assert wide["conv1"] == 64
        assert [wide[f"layer{n}.1.conv3"] for n in (1, 2, 3, 4)] == [230, 460, 921, 2048]
        assert [wide[f"layer{n}.1.conv1"] for n in (1, 2, 3, 4)] == [41, 83, 166, 332]


def test_rates_in_the_grammar_of_the_release_are_read():
    named, mapped = CFDP(keep="resnet56", score="random", round_to=1), {"layer[12].*.conv2": 0.7, "layer1.*.conv1": 0.5}
    model, images = resnet56().eval(), torch.rand(2, 3, 32, 32)
    written = replace(named, keep="resnet56: [0.]+[.3]*2+[0.5]*9+[0.,0.,0.]*6")
    plans = [st.plan(model, method, calibration=images) for method in (written, replace(named, keep=mapped))]
    assert {edit.path: len(edit.channels) for edit in plans[0].edits} == {
        edit.path: len(edit.channels) for edit in plans[1].edits
    }
    assert len(plans[0].edits) == 11
    assert fractions("resnet56") == fractions("resnet56:[0.]+[0.18]*29")


@pytest.mark.parametrize(
    ("make", "side", "parameters", "plain", "published"),
    [
        (vgg16_bn, 32, 14_991_946, 313.464, 314.295),
        (resnet56, 32, 853_018, 125.486, 126.551),
        (resnet110, 32, 1_727_962, 252.888, 254.985),
        (googlenet, 32, 6_166_250, 1521.76, 1529.42),
        (resnet50, 224, 25_557_032, 4089.18, 4111.41),
    ],
)
def test_the_baselines_have_the_papers_sizes(make, side, parameters, plain, published):
    model, x = make().eval(), torch.rand(1, 3, side, side)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert macs(model, x) / 1e6 == pytest.approx(plain, abs=0.006)
    assert published_macs(model, x) / 1e6 == pytest.approx(published, abs=0.006)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()


IMAGES = torch.rand(8, 3, 10, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("score", [*SCORES, "random"])
def test_the_channels_with_the_lowest_scores_go(score):
    model = net()
    plan = st.plan(model, CFDP(keep=0.5, score=score), calibration=[IMAGES[:4], IMAGES[4:]])
    (edit,) = plan.edits
    assert edit.path == "0"
    assert len(edit.channels) == 8
    if score == "random":
        expected = torch.rand(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    else:
        with torch.no_grad():
            expected = SCORES[score](model[:3](IMAGES), 10.0, 0.03).mean(0)
    assert set(edit.channels) == set(expected.argsort()[:8].tolist())


@pytest.mark.parametrize("block", [1, 2, 8])
@pytest.mark.parametrize(("score", "options"), [("ortho", {}), ("paper", {"scale": "none", "sigma": 10.0})])
def test_patches_may_have_another_side(score, options, block):
    model = net()
    with torch.no_grad():
        expected = frequency_score(model[:3](IMAGES), block=block, **options).mean(0)
    (found,), _ = CFDP(score=score, block=block).ranking(model, calibration=IMAGES)
    assert found.scores == pytest.approx((expected / expected.mean()).tolist())
    (usual,), _ = CFDP(score=score).ranking(model, calibration=IMAGES)
    assert found.scores != pytest.approx(usual.scores, rel=1e-2)


def test_equal_scores_go_in_the_order_of_the_channels():
    model = net()
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    (edit,) = st.plan(model, CFDP(keep=0.5), calibration=IMAGES).edits
    assert edit.channels == tuple(range(8))


def test_batches_of_any_size_give_the_mean_over_images():
    model = net()
    whole = mean_scores(model, {"3"}, [IMAGES], lambda maps: SCORES["ortho"](maps, 1.0, 0.03))
    parts = mean_scores(model, {"3"}, [IMAGES[:3], IMAGES[3:4], IMAGES[4:]], lambda m: SCORES["ortho"](m, 1.0, 0.03))
    torch.testing.assert_close(whole, parts)


def test_a_group_is_scored_where_it_is_read_and_every_reader_counts_the_same():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.write, self.one, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.write(x).relu()
            return self.one(x) + self.other(1000 * x.flip(3).square())

    torch.manual_seed(3)
    model = Two()
    (edit,) = st.plan(model, CFDP(keep=0.5, score="l1", round_to=1), calibration=IMAGES).edits
    x = model.write(IMAGES).relu().abs().sum((0, 2, 3)).double()
    y = model.write(IMAGES).relu().square().sum((0, 2, 3)).double()
    expected = x / x.mean() + y / y.mean()
    assert set(edit.channels) == set(expected.argsort()[:4].tolist())


def group(units, width=None, locked=0):
    return Group("g", ("g.weight", 0), ("g",), width or units, ({},) * units, (), (locked, "x" * bool(locked)))


@pytest.mark.parametrize(
    ("units", "keep", "round_to", "kept"),
    [
        (64, 0.79, 1, 50),
        (10, 0.7, 1, 7),
        (64, 0.5, 8, 32),
        (64, 0.3, 8, 16),
        (64, 0.32, 8, 24),
        (64, 0.01, 1, 1),
        (64, 0.01, 8, 8),
        (4, 0.5, 8, 4),
        (13, 0.5, 8, 8),
        (13, 1.0, 8, 13),
        (20, 0.99, 8, 16),
        (1, 0.1, 1, 1),
    ],
)
def test_how_many_channels_stay(units, keep, round_to, kept):
    assert kept_units(group(units), keep, round_to) == kept


def test_a_group_of_whole_groups_is_rounded_in_channels():
    assert kept_units(group(32, width=128), 0.5, 8) == 16
    assert kept_units(group(32, width=128), 0.55, 8) == 18
    assert kept_units(group(6, width=10, locked=4), 0.5, 8) == 4


def test_per_layer_values_and_what_is_named_are_kept():
    model = resnet20().eval()
    images = torch.rand(2, 3, 32, 32)
    keep = {"layer1.*.conv1": 0.5, "layer2.0.conv2": 0.75}
    plan = st.plan(model, CFDP(keep=keep), calibration=images)
    assert [edit.path for edit in plan.edits] == [
        "layer1.0.conv1",
        "layer1.1.conv1",
        "layer1.2.conv1",
        "layer2.0.conv2",
    ]
    assert "with layer2.0.shortcut, layer2.1.conv2, layer2.2.conv2; saves" in str(plan)
    reasons = {row.site: row.reason for row in plan.skipped}
    assert reasons["linear"] == "is the output of the model"
    assert reasons["conv1"] == reasons["layer3.2.conv2"] == "no pattern of keep matches"
    seen = (
        {edit.path for edit in plan.edits} | reasons.keys() | {"layer2.0.shortcut", "layer2.1.conv2", "layer2.2.conv2"}
    )
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert layers <= seen

    plan = st.plan(model, CFDP(keep=0.5), where="!layer2.1.conv2", calibration=images)
    reasons = {row.site: row.reason for row in plan.skipped}
    assert reasons["layer2.0.conv2"] == "left alone by where, together with 'layer2.1.conv2'"
    with pytest.raises(st.SiteError, match=r"where='layers\.\*' matches none of the"):
        st.plan(model, CFDP(keep=0.5), where="layers.*", calibration=images)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (
            {"layers.*": 0.5},
            r"keep=\{'layers\.\*': 0\.5\} matches none of the 22 layers of ResNetCIFAR .* 'layer1\.\*'",
        ),
        ("vgg16_bn", r"keep=\{'features\.0': 0\.79, .*\} and 9 more matches none"),
    ],
)
def test_fractions_that_fit_no_layer_are_refused(keep, message):
    with pytest.raises(st.SiteError, match=message):
        st.plan(resnet20().eval(), CFDP(keep=keep), calibration=torch.rand(2, 3, 32, 32))


def test_a_forward_with_a_written_down_size_is_cut_elsewhere():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.out = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 2, 1)

        def forward(self, x):
            x = self.one(x).relu().view(-1, 16, *x.shape[2:])
            return self.out(self.two(x).relu())

    plan = st.plan(Fixed(), CFDP(), calibration=IMAGES)
    assert [edit.path for edit in plan.edits] == ["two"]
    assert "one  skipped: the forward has sizes of its own and fails" in str(plan)


def test_the_images_of_a_loader_are_taken():
    dataset = torch.utils.data.TensorDataset(IMAGES, torch.arange(8))
    loader = torch.utils.data.DataLoader(dataset, batch_size=3)
    edits = [st.plan(net(), CFDP(), calibration=each).edits for each in (loader, IMAGES, [IMAGES], iter([IMAGES]))]
    assert edits[0] == edits[1] == edits[2] == edits[3]


NAN = IMAGES.clone()
NAN[1, 0, 0, 0] = float("nan")


@pytest.mark.parametrize("score", ["ortho", "random"])
@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        (None, ValueError, "needs calibration=…"),
        ([], st.DataError, "the calibration is empty"),
        (torch.zeros(0, 3, 8, 8), st.DataError, "the calibration is empty"),
        ([torch.zeros(0, 3, 8, 8)], st.DataError, r"batch 0 is empty: its shape is \(0, 3, 8, 8\)"),
        ([IMAGES, {"x": IMAGES}], st.DataError, "batch 1 is a dict"),
        (NAN, st.DataError, "batch 0 holds 1 numbers that are NaN"),
        ([IMAGES, NAN], st.DataError, "batch 1 holds 1 numbers that are NaN"),
        (torch.rand(4, 1, 8, 8), st.DataError, r"batch 0 of shape \(4, 1, 8, 8\)"),
        (torch.rand(4), st.DataError, r"batch 0 of shape \(4,\)"),
    ],
)
def test_bad_calibration_is_refused_and_the_model_stays(calibration, error, message, score):
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        st.compress_(model, CFDP(score=score), calibration=calibration)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


class Choosy(nn.Sequential):
    """Looks at numbers that it computed, and gives up on some."""

    def forward(self, x):
        scores = super().forward(x)
        if float(scores.abs().max()) > 0:
            raise LookupError("no object found")
        return scores


class Ambiguous(nn.Sequential):
    """A branch on a whole tensor, which Python cannot take."""

    def forward(self, x):
        return super().forward(x) if x > 0 else x


@pytest.mark.parametrize("arguments", [{}, {"target": "params:0.5"}, {"score": "random"}])
@pytest.mark.parametrize(("kind", "message"), [(Choosy, "no object found"), (Ambiguous, "Boolean value of Tensor")])
def test_a_forward_that_fails_is_refused_in_its_own_words_and_the_model_stays(kind, message, arguments):
    model = kind(*net()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(st.DataError, match=f"of shape .* channels of {kind.__name__} .*{message}.* the model runs on"):
        st.compress_(model, CFDP(**arguments), calibration=IMAGES)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_batch_that_differs_later_is_named():
    with pytest.raises(st.DataError, match=r"batch 1 of shape \(4, 1, 8, 8\) does not go through Sequential"):
        st.plan(net(), CFDP(), calibration=[IMAGES, torch.rand(4, 1, 8, 8)])


def test_a_model_with_broken_weights_is_named():
    model = net()
    model[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(st.DataError, match="the features that '3' reads are not finite"):
        st.plan(model, CFDP(), calibration=IMAGES)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keep": 0}, ValueError, r"keep must lie in \(0, 1\], got 0"),
        ({"keep": 5}, ValueError, r"For 5 percent, pass keep=0\.05"),
        ({"keep": {"*": 2.0}}, ValueError, r"keep must lie in \(0, 1\]"),
        ({"keep": True}, TypeError, "keep must be a number"),
        ({"keep": "vgg"}, ValueError, "one of vgg16_bn, .*resnet56, resnet110.* or NETWORK:LIST .*; got 'vgg'"),
        ({"keep": "resnet20:[0.5]*12"}, ValueError, "got 'resnet20:"),
        ({"keep": "resnet56:[0.]+[0.18]*28"}, ValueError, "resnet56 takes a list of 30 rates, .*; got 29 in"),
        ({"keep": "vgg16_bn:[0.2]*7+[1.0]*5"}, ValueError, r"a rate is the share that goes, in \[0, 1\), got 1 in"),
        (
            {"keep": "vgg16_bn:0.2*12"},
            ValueError,
            r"a list of rates is written \[0\.\]\+\[0\.18\]\*29, got '0\.2\*12' in",
        ),
        ({"keep": "vgg16_bn:[-0.2]*12"}, ValueError, r"a list of rates is written"),
        ({"keep": "vgg16_bn:[0.2]*1000000000"}, ValueError, r"a list of rates is written"),
        ({"score": "taylor"}, ValueError, "score must be one of ortho, paper, official, l1, l2, random"),
        ({"round_to": 0}, ValueError, "round_to"),
        ({"block": 2.0}, ValueError, r"block must be a whole number of at least 1, got 2\.0"),
        ({"sigma": 0.0}, ValueError, "sigma must be positive"),
        ({"weight": -1.0}, ValueError, "weight not negative"),
    ],
)
def test_bad_hyperparameters_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        CFDP(**arguments)


def test_a_coded_model_is_refused():
    model = st.compress_(net(), st.FrequencyRegularization(keep=0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        st.OrderError, match=r"2 tensors are already coded \(first: '0\.weight', spectral\)\. Cut first"
    ):
        st.compress_(model, CFDP(), calibration=IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_codes_go_on_top_and_cuts_repeat():
    model = st.compress_(net(), CFDP(keep=0.5), calibration=IMAGES)
    st.compress_(model, CFDP(keep=0.5, round_to=1), calibration=IMAGES)
    assert model[0].out_channels == 4
    st.compress_(model, st.FrequencyRegularization(keep=0.5))
    assert model(IMAGES).shape == (8, 8, 8, 8)


def test_a_transformers_tokens_are_scored():
    model = torchvision.models.VisionTransformer(16, 8, 1, 2, 32, 64, num_classes=4).eval()
    plan = st.plan(model, CFDP(keep=0.5), calibration=torch.rand(2, 3, 16, 16))
    assert [edit.path for edit in plan.edits] == ["encoder.layers.encoder_layer_0.mlp.0"]
    found, _ = groups(model, [torch.rand(1, 3, 16, 16)])
    assert found[0].readers[0].path == "encoder.layers.encoder_layer_0.mlp.3"
