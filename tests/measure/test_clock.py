import time

import pytest
import torch
from torch import Tensor, nn

from spectrim.measure import Comparison, Latency, latency, paired_latency

X = torch.zeros(1, 4)


class Sleep(nn.Module):
    """Takes a known time, and remembers its calls in a shared list."""

    def __init__(self, name: str, milliseconds: float, calls: list[str]) -> None:
        super().__init__()
        self.name, self.milliseconds, self.calls = name, milliseconds, calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(self.name)
        assert not self.training
        assert not torch.is_grad_enabled()
        time.sleep(self.milliseconds / 1000)
        return x


def test_a_known_time_is_measured():
    measured = latency(Sleep("a", 10, []), X, rounds=3, warmup=0)
    assert 10 <= measured.min_ms <= measured.median_ms
    assert measured.min_ms < 100
    assert len(measured.rounds_ms) == 3
    assert measured.device == "cpu"
    assert measured.threads == torch.get_num_threads()


def test_the_ratio_of_two_known_times_is_measured():
    pair = paired_latency({"slow": Sleep("a", 20, []), "fast": Sleep("b", 10, [])}, X, rounds=5, warmup=1)
    assert 1.3 < pair.speedup("fast", over="slow") < 2.5
    assert pair.to_json()["fast"]["speedup"] == pytest.approx(pair.speedup("fast", over="slow"), abs=1e-4)
    assert "speedup" not in pair.to_json()["slow"]


def test_models_take_turns_in_alternating_order():
    calls: list[str] = []
    paired_latency({"a": Sleep("a", 6, calls), "b": Sleep("b", 6, calls)}, X, rounds=3, warmup=0)
    assert "".join(calls[-12:]) == "aabbbbaaaabb", "each turn begins with a call that does not count"


def test_short_calls_are_repeated_until_a_round_can_be_timed():
    assert latency(nn.Linear(4, 4), X, rounds=2).repeats > 10
    assert latency(Sleep("a", 8, []), X, rounds=2).repeats == 1


@pytest.mark.gpu
def test_on_a_gpu_the_work_is_waited_for():
    layer = nn.Linear(8192, 8192, device="cuda")
    measured = latency(layer, torch.zeros(8192, 8192, device="cuda"), rounds=3)
    # A terafloating-point operation takes milliseconds on any device; only launching it takes microseconds.
    assert measured.min_ms > 0.5
    assert measured.device.startswith("cuda")


def test_a_hiccup_does_not_decide_the_speedup():
    slow = Latency(rounds_ms=(2.0, 2.0, 200.0), repeats=1, threads=1, device="cpu")
    fast = Latency(rounds_ms=(1.0, 1.0, 1.0), repeats=1, threads=1, device="cpu")
    assert Comparison({"a": slow, "b": fast}).speedup("b", over="a") == 2.0


def test_nothing_is_left_changed():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    threads = torch.get_num_threads()
    measured = latency(model, torch.randn(8, 4), rounds=2, threads=threads + 1)
    assert measured.threads == threads + 1
    assert torch.get_num_threads() == threads
    assert [module.training for module in model.modules()] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_everything_is_put_back_after_an_error():
    model = nn.Linear(3, 3).train()
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        latency(model, torch.zeros(1, 4), threads=threads + 1)
    assert model.training
    assert torch.get_num_threads() == threads


def test_outputs_that_differ_are_refused_when_asked():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    x = torch.ones(2, 4)
    paired_latency({"a": a, "b": a}, x, rounds=1, tolerance=0.0)
    with pytest.raises(ValueError, match="differ from those of 'a' by up to"):
        paired_latency({"a": a, "b": b}, x, rounds=1, tolerance=1e-6)
    with pytest.raises(ValueError, match="cannot be compared"):
        paired_latency({"a": a, "b": nn.Linear(4, 2)}, x, rounds=1, tolerance=1e-6)


def test_not_a_number_is_a_difference():
    broken = nn.Linear(4, 4)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(ValueError, match="nan"):
        paired_latency({"a": nn.Linear(4, 4), "b": broken}, torch.ones(1, 4), rounds=1, tolerance=1.0)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"warmup": -1}])
def test_a_measurement_without_rounds_is_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match="needs a model, a round"):
        latency(nn.Linear(4, 4), X, **wrong)
