"""The loop among several processes."""

import torch
from torch import nn

import spectrim as st
from spectrim.training.loop import shared


def test_every_component_goes_through_a_model_for_several_processes(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 1))
    st.compress_(model, st.ReconstructedFilters(keep=0.75), where=["0", "1"])
    x = torch.rand(2, 3, 8, 8)
    st.compress_(model, st.PointwisePruning(keep=0.5), where="2", calibration=x)
    assert {buffer.dtype for buffer in model.buffers()} & {torch.int16}
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        network = shared(model)
        network(x).sum().backward()
        torch.testing.assert_close(network(x), model(x))
    finally:
        torch.distributed.destroy_process_group()
    assert all(parameter.grad is not None for parameter in model.parameters())
