"""What Frequency Regularization adds to a training step of the CIFAR ResNet-18.

A step is forward, loss, backward and SGD with momentum and weight decay, on one fixed random batch. The same network
is trained plain, and coded with all, a tenth and a hundredth of its coefficients left, and at the start of an annealing.

    python benchmarks/fr_step.py            # writes benchmarks/results/fr_step.json
"""

import copy
from collections.abc import Callable

import torch
from rounds import options, times, write
from torch import nn
from torch.nn import functional as F

from spectrim import FrequencyRegularization, anneal_, compress_, finalize_
from spectrim.zoo.resnet18 import resnet18

BATCH = 128


def main() -> None:
    chosen = options("A training step of the CIFAR ResNet-18, plain and coded.", rounds=5)
    plain = resnet18()
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    networks = {"plain": plain}
    for keep in (1.0, 0.1, 0.01):
        networks[f"keep {keep:g}"] = coded(plain, keep, progress=1.0)
    networks["keep 0.01, start of annealing"] = coded(plain, 0.01, progress=0.0)
    for name, network in networks.items():
        check(network, images, name)
    measured = times(
        {name: step(network, images, labels) for name, network in networks.items()}, rounds=chosen.rounds, fill_ms=0
    )
    rows = []
    for name in networks:
        row = {"network": name, **measured[name].to_json()}
        row["cpu_ratio"] = round(min(measured[name].cpu) / min(measured["plain"].cpu), 3)
        row["wall_ratio"] = round(min(measured[name].wall) / min(measured["plain"].wall), 3)
        rows.append(row)
        print(row, flush=True)
    print(write("fr_step", rows, seed=chosen.seed, batch=BATCH, rounds=chosen.rounds))


def coded(plain: nn.Module, keep: float, *, progress: float) -> nn.Module:
    network = compress_(copy.deepcopy(plain), FrequencyRegularization(keep=keep))
    anneal_(network, progress)
    return network


def check(network: nn.Module, images: torch.Tensor, name: str) -> None:
    """A coded network computes what the plain network of its decoded weights computes."""
    decoded = finalize_(copy.deepcopy(network)).eval()
    with torch.no_grad():
        difference = (network.eval()(images[:8]) - decoded(images[:8])).abs().max().item()
    assert difference < 1e-4, f"{name}: outputs differ by {difference}"
    network.train()


def step(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    main()
