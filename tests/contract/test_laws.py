"""The laws that every method keeps, over the list of all methods."""

import contextlib
import copy
import io

import onnxruntime
import pytest
import torch
from torch import nn

import spectrim as st
from spectrim.methods import METHODS
from spectrim.nn import Layer, components
from spectrim.surgery import coded
from tests.contract.cases import CASES

pytestmark = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
PROGRESS = (0.0, 0.02, 0.1, 0.3, 0.3, 0.7, 1.0)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(before, after):
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(before[name], after[name], atol=0, rtol=0, equal_nan=True)


def compressed(case, progress=1.0):
    model = st.compress_(case.model(), case.method, calibration=case.calibration)
    st.anneal_(model, progress)
    return model


def as_stored(model):
    """A copy with its layers in the form that a file holds."""
    copied = copy.deepcopy(model)
    for path, each in list(components(copied)):
        if isinstance(each, Layer):
            copied.set_submodule(path, each.stored())
    return copied


def one_step(model, case, optimizer, step, steps):
    """A step of the loop that users write."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(case.input_shape, generator=generator)
    y = torch.randint(10, (case.input_shape[0],), generator=generator)
    loss = nn.functional.cross_entropy(model.train()(x), y) + st.penalty(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    st.anneal_(model, step / (steps - 1))


def test_law_1_with_nothing_dropped_the_output_is_the_dense_output(case):
    model, x = case.model(), case.batch()
    expected = model(x)
    st.compress_(model, case.lossless, calibration=case.calibration)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    st.anneal_(model, 1.0)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_law_2_planning_changes_nothing_and_a_plan_survives_json(case):
    model = case.model()
    before = state(model)
    plan = st.plan(model, case.method, calibration=case.calibration)
    assert_same_state(before, state(model))
    again = st.Plan.from_json(plan.to_json())
    assert plan == again
    one, other, x = plan.apply_(case.model()), again.apply_(case.model()), case.batch()
    torch.testing.assert_close(one(x), other(x), atol=0, rtol=0)


def test_law_3_a_plan_for_another_model_leaves_this_one_as_it_was(case):
    plan = st.plan(case.model(), case.method, calibration=case.calibration)
    smaller = case.model()
    name, other, message = case.misfit
    smaller.set_submodule(name, other())
    before = state(smaller)
    with pytest.raises(st.PlanError, match=message):
        plan.apply_(smaller)
    assert_same_state(before, state(smaller))
    assert coded(smaller) == []


def test_law_3_a_plan_that_fails_half_way_is_undone(case, monkeypatch):
    model = case.model()
    plan, before = st.plan(model, case.method, calibration=case.calibration), state(model)
    kind = type(plan.edits[-1])
    together = kind.prepare_together

    def fails():
        raise MemoryError

    monkeypatch.setattr(kind, "prepare_together", lambda edits, model: [*together(edits, model), fails])
    with pytest.raises(MemoryError):
        plan.apply_(model)
    assert_same_state(before, state(model))
    assert list(before) == list(state(model)), "the order counts: optimizers go by it"
    assert coded(model) == []


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_law_4_gradients_reach_every_code_tensor(case, progress):
    model = compressed(case, progress).train()
    (model(case.batch()).square().sum() + st.penalty(model)).backward()
    for entry in coded(model):
        assert entry.code.grad is not None, entry.site
        assert entry.code.grad.abs().sum() > 0, entry.site


def test_law_5_annealing_is_monotone_and_idempotent_and_reaches_the_target(case):
    plan = st.plan(case.model(), case.method, calibration=case.calibration)
    model = st.compress_(case.model(), case.method, calibration=case.calibration)
    before = [entry.codec.numbers() for entry in coded(model)]
    for progress in PROGRESS:
        st.anneal_(model, progress)
        now = [entry.codec.numbers() for entry in coded(model)]
        assert all(a >= b for a, b in zip(before, now, strict=True))
        st.anneal_(model, progress)
        st.anneal_(model, progress / 2)
        assert now == [entry.codec.numbers() for entry in coded(model)]
        before = now
    dense = sum(p.numel() for p in case.model().parameters())
    held = sum(p.numel() for p in as_stored(model).parameters())
    codes = sum(entry.code.numel() for entry in coded(model))
    assert plan.before == dense
    assert plan.after == held - codes + sum(before)
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\]"):
        st.anneal_(model, 1.5)


def test_law_5_evaluation_advances_nothing(case):
    model = compressed(case, 0.3)
    before = state(model)
    for mode in (True, False):
        with torch.no_grad():
            model.train(mode)
            for entry in coded(model):
                assert entry.codec(entry.code).shape == case.model().get_parameter(entry.site).shape
    model.eval()(case.batch())
    assert_same_state(before, state(model))


def test_law_6_a_resumed_run_equals_an_uninterrupted_one(case):
    whole = st.compress_(case.model(), case.method, calibration=case.calibration)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for step in range(8):
        one_step(whole, case, optimizer, step, 8)

    first = st.compress_(case.model(), case.method, calibration=case.calibration)
    optimizer = torch.optim.SGD(first.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    halted = 0
    for halted in range(4):
        one_step(first, case, optimizer, halted, 8)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)

    saved = torch.load(file, weights_only=True)
    second = st.compress_(case.model(), case.method, calibration=case.calibration)
    second.load_state_dict(saved["model"])
    optimizer = torch.optim.SGD(second.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    optimizer.load_state_dict(saved["optimizer"])
    for step in range(halted + 1, 8):
        one_step(second, case, optimizer, step, 8)
    assert_same_state(state(whole), state(second))


def test_law_7_finalizing_a_copy_leaves_the_source_alone(case):
    model, x = compressed(case), case.batch()
    expected, before = model(x), state(model)
    copied = st.finalize_(copy.deepcopy(model))
    assert_same_state(before, state(model))
    torch.testing.assert_close(model(x), expected, atol=0, rtol=0)
    assert bool(coded(model)) == case.codes
    assert coded(copied) == []
    assert type(copied) is type(case.model())
    if not case.swaps:
        assert list(copied.state_dict()) == list(case.model().state_dict())


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_law_8_what_is_saved_is_what_is_loaded(case, dtype, decode, tmp_path):
    model, x = compressed(case), case.batch()
    st.save(model, tmp_path / "model.safetensors", dtype=dtype)
    loaded = st.load_(case.build(), tmp_path / "model.safetensors", decode=decode).eval()
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(loaded(x), model(x), atol=tolerance, rtol=tolerance)
    assert bool(coded(loaded)) == (case.codes and not decode)
    if not decode:
        st.save(loaded, tmp_path / "again.safetensors", dtype=dtype)
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_law_9_finalized_equals_compressed_and_exports(case, tmp_path):
    model, x = compressed(case), case.batch()
    expected = model(x).detach()
    st.finalize_(model)
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-6)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), expected, atol=1e-6, rtol=1e-6)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, atol=1e-4, rtol=1e-4)


def test_law_9_with_an_example_the_faster_form_computes_the_same(case):
    model, x = compressed(case), case.batch()
    expected = model(x).detach()
    st.finalize_(model, example=x)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    assert coded(model) == []


def test_law_10_it_compiles_whole(case):
    model, x = compressed(case), case.batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=1e-5)


def test_law_11_each_ordered_pair_works_or_is_refused(case):
    for other in CASES:
        model = compressed(case)
        expected = model(case.batch())
        if case.may_precede(other):
            assert (
                st.compress_(model, other.method, calibration=other.calibration)(case.batch()).shape == expected.shape
            )
            continue
        if case.swaps and other.swaps and type(case.method) is not type(other.method):
            # Each finds plain modules of its own, or says that there are none.
            with contextlib.suppress(st.SiteError):
                st.compress_(model, other.method, calibration=other.calibration)
            assert model(case.batch()).shape == expected.shape
            continue
        with pytest.raises(st.OrderError, match=r"already (coded|swapped)"):
            st.compress_(model, other.method, calibration=other.calibration)
        torch.testing.assert_close(model(case.batch()), expected, atol=0, rtol=0)


def test_law_12_nothing_global_changes(case, tmp_path):
    def world():
        return (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.random.get_rng_state().tolist(),
            torch.are_deterministic_algorithms_enabled(),
        )

    model, x = case.model().train(), case.batch()
    before = world()
    st.compress_(model, case.method, calibration=case.calibration)
    st.anneal_(model, 1.0)
    st.penalty(model)
    st.save(model, tmp_path / "model.safetensors")
    st.inspect(model)
    st.finalize_(model, example=x)
    assert world() == before
    assert all(module.training for module in model.modules())


def test_the_list_holds_every_method(case):
    assert set(METHODS.values()) == {type(each.method) for each in CASES}
    assert type(case.lossless) is type(case.method)
