"""Batch normalisations that are counted anew: against torch's own counting, and what must stay as it was."""

import copy

import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.zoo.resnet_cifar import resnet20

IMAGES = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 3 + 1


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4, momentum=None)
    ).eval()  # fmt: skip


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_one_batch_is_counted_as_torch_counts_it():
    model, peer = net(), net()
    peer[1].momentum = None
    for norm in (peer[1], peer[5]):
        norm.reset_running_stats()
        norm.train()
    peer(IMAGES)
    assert st.reestimate_norms_(model, IMAGES) == 2
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, peer.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_the_first_norm_gets_mean_and_variance_over_all_images_however_they_are_batched():
    x = net()[0](IMAGES).double().transpose(0, 1).flatten(1)
    for calibration in (IMAGES, IMAGES.split(16), IMAGES.split([5, 40, 3]), IMAGES.flip(0).split(7)):
        model = net()
        st.reestimate_norms_(model, calibration)
        torch.testing.assert_close(model[1].running_mean.double(), x.mean(1), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(model[1].running_var.double(), x.var(1), rtol=1e-6, atol=1e-7)


def test_the_order_of_the_batches_does_not_matter():
    one, other = net(), net()
    batches = IMAGES.split(12)
    st.reestimate_norms_(one, batches)
    st.reestimate_norms_(other, batches[::-1])
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-6, atol=1e-7)


def test_a_norm_behind_another_one_sees_what_that_one_normalised():
    model = net()
    model[1].running_mean += 100  # wrong, and must not be seen by what follows
    st.reestimate_norms_(model, IMAGES)
    inside = model[:5](IMAGES).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[5].running_mean, inside.mean(1), rtol=1e-3, atol=1e-4)
    outside = model(IMAGES)
    assert outside.mean((0, 2, 3)).abs().max() < 1e-3
    assert (outside.var((0, 2, 3)) - 1).abs().max() < 1e-2


def test_the_sums_are_exact_where_float32_would_lose_them():
    model = nn.Sequential(nn.BatchNorm1d(1)).double()
    x = torch.cat([torch.full((500_000, 1), 1000.0), torch.full((500_000, 1), 1000.001)])
    st.reestimate_norms_(model, x.double().split(1000))
    torch.testing.assert_close(model[0].running_var, x.double().var(0), rtol=1e-6, atol=0)


def test_modes_momentum_gradients_counters_and_random_numbers_stay():
    model = net()
    model[0].train()
    model[4].weight.requires_grad_(requires_grad=False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, random, modes = state(model), torch.get_rng_state(), [module.training for module in model.modules()]
    st.reestimate_norms_(model, IMAGES)
    assert [module.training for module in model.modules()] == modes
    assert [model[1].momentum, model[5].momentum] == [0.1, None]
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert model[0].weight.grad.eq(1).all()
    assert not any(module._forward_hooks for module in model.modules())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"}


def test_statistics_that_are_nan_are_mended():
    model = net()
    model[1].running_var.fill_(float("nan"))
    st.reestimate_norms_(model, IMAGES)
    assert model(IMAGES).isfinite().all()


def test_a_norm_called_twice_counts_both_and_one_that_is_not_called_keeps_what_it_has():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.idle = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x) + self.norm(10 * x)

    model = Twice()
    assert st.reestimate_norms_(model, IMAGES) == 1
    both = torch.cat([IMAGES, 10 * IMAGES]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.norm.running_mean, both.mean(1))
    torch.testing.assert_close(model.norm.running_var, both.var(1))
    assert model.idle.running_mean.eq(0).all()


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        (None, ValueError, "re-estimating norms looks at activations and needs calibration=…"),
        ([], st.DataError, "the calibration is empty"),
        ([IMAGES, IMAGES * float("nan")], st.DataError, "batch 1 holds .* NaN"),
        ([IMAGES, IMAGES[:, :1]], st.DataError, r"batch 1 of shape \(48, 1, 8, 8\) does not go through Sequential"),
        ([IMAGES, IMAGES[:1, :, :5, :5]], st.DataError, "batch 1 .* Expected more than 1 value per channel"),
    ],
)
def test_after_an_error_the_model_is_as_it_was(calibration, error, message):
    model = net()
    before = state(model)
    with pytest.raises(error, match=message):
        st.reestimate_norms_(model, calibration)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training or module._forward_hooks for module in model.modules())


def test_broken_weights_are_named():
    model = net()
    model[4].weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(st.DataError, match="what '5' gets for the calibration images is not finite"):
        st.reestimate_norms_(model, IMAGES)


def test_a_model_without_norms_is_told_so():
    with pytest.raises(st.SiteError, match="found none with running statistics in Sequential"):
        st.reestimate_norms_(nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1, track_running_stats=False)), IMAGES)


def test_a_truncated_network_gets_nearer_to_its_normalised_self():
    torch.manual_seed(0)
    model = resnet20().train()
    images = torch.rand(64, 3, 32, 32)
    model(images)
    truncated = st.compress_(copy.deepcopy(model), st.FrequencyRegularization(keep=0.5, schedule="at-once")).eval()
    assert st.reestimate_norms_(truncated, images) == 19
    assert truncated.layer3[2].bn2.running_mean.isfinite().all()
    with torch.no_grad():
        inside = truncated.conv1(images)
    torch.testing.assert_close(truncated.bn1.running_mean, inside.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
