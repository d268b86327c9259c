"""Components in a model for several processes: in a loop of the user's own, and in ours."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import spectrim as st
from spectrim.nn.channel_map import ChannelMap
from spectrim.training.loop import shared


@pytest.fixture
def alone(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


X = torch.linspace(-1, 1, 2 * 3 * 12 * 12).reshape(2, 3, 12, 12)


def steps(model, network, count=4):
    """Which parameters got a gradient in each of some steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = []
    for step in range(count):
        st.anneal_(model, step / (count - 1))
        (network(X).square().mean() + st.penalty(model)).backward()
        found.append({name for name, parameter in model.named_parameters() if parameter.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
    return found


@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")  # slower, says torch, no more
@pytest.mark.parametrize(
    "rebuilding",
    [{}, {"saliency": "taylor"}, {"assign": "outputs", "start": "outputs"}],
    ids=["magnitude", "gradients", "outputs"],
)
def test_every_component_trains_in_torchs_own_model_for_several_processes(alone, rebuilding):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 1), ChannelMap.padded(16, 20), nn.Conv2d(20, 4, 1)
    )
    st.compress_(model, st.ReconstructedFilters(keep=0.75, **rebuilding), where=["0", "1"])
    st.compress_(model, st.PointwisePruning(keep=0.5, pays="always", block=4), where="2", calibration=X)
    st.compress_(model, st.FrequencyRegularization(keep=0.5), where="4")
    network = DistributedDataParallel(model)
    assert network.broadcast_buffers
    assert {"0.template", "2.kept", "3.source"} <= {name for name, _ in model.named_buffers()}
    names = {name for name, _ in model.named_parameters()}
    assert steps(model, network) == [names] * 4
    assert model[0].pruned | model[1].pruned
    torch.testing.assert_close(network(X), model(X))


@pytest.mark.parametrize("rounds", [0, 4])
def test_bands_and_weights_train_in_turn_in_a_model_for_several_processes(alone, rounds):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1))
    method = st.PointwisePruning(keep=0.5, pays="always", block=4, learn=True, rounds=rounds)
    st.compress_(model, method, calibration=X)
    names = {name for name, _ in model.named_parameters()}
    found = steps(model, shared(model))
    assert {"0.theta", "1.theta"} <= names
    assert found[0] == ({"0.theta", "1.theta"} if rounds else names)
    assert found[-1] == names - {"0.theta", "1.theta"}
