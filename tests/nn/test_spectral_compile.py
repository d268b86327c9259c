"""The codec under torch.compile: one graph, and a handful of them over a whole annealing."""

import pytest
import torch
from torch import nn

import spectrim as st


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counter:
    """A backend that counts the graphs it is given and runs them as they are."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, example_inputs):
        self.graphs += 1
        return graph.forward


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3, groups=2), nn.Flatten(), nn.Linear(96, 5)
    )
    return st.compress_(layers, st.FrequencyRegularization(keep=0.05))


def test_a_whole_annealing_compiles_in_one_piece_and_a_handful_of_times():
    model, images = network(), torch.randn(4, 3, 6, 6)
    counter = Counter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for step in range(41):
        st.anneal_(model, step / 40)
        torch.testing.assert_close(compiled(images), model(images))
    assert counter.graphs <= 7


def test_the_graph_that_was_compiled_for_training_notices_a_new_count():
    model, images = network(), torch.randn(4, 3, 6, 6)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    before = compiled(images)
    st.anneal_(model, 0.01)  # no new box: the same graph, cut elsewhere
    after = compiled(images)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, model(images))


def test_gradients_through_the_compiled_graph_are_the_same():
    model, images = network(), torch.randn(4, 3, 6, 6)
    st.anneal_(model, 0.5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    def gradients(forward):
        model.zero_grad()
        forward(images).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    torch.testing.assert_close(gradients(compiled), gradients(model), atol=1e-4, rtol=1e-4)
