"""What a closed-form repair gives back to a cut network before any training, and what is left of that after some.

    SPECTRIM_DATA=FOLDER python benchmarks/cfdp_repair.py                # measure what the file lacks, then the tables
    python benchmarks/cfdp_repair.py --draw                              # the tables from the file alone

The folder holds the images (``cifar10-*.npz``, ``imagenet-*.npz``) and the weights of the pretrained networks. Each cut is
measured as it is, with its norms re-estimated, and repaired; all on the same training images. The second table
fine-tunes, with the same steps and crops, from the cut as it is and from the repaired one.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import rounds
import torch
from cifar import ROOT, Plan, accuracy, cifar10, inputs, read, trained_, weights
from torch import Tensor, nn

import spectrim as st
from spectrim.zoo.resnet_cifar import resnet20, resnet56

NAME = "cfdp_repair"
CHECKPOINTS = ROOT / "runs" / NAME
TESTED = 5_000
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"resnet20": resnet20, "resnet56": resnet56}
INNER = {"*.conv1": 0.5}
CUTS: tuple[tuple[str, str, Any, str, int], ...] = (
    *(("resnet20", label, keep, score, 640) for label, keep in (("0.75", 0.75), ("0.5", 0.5), ("0.5 of the inner", INNER))
      for score in ("ortho", "random")),
    *(("resnet56", label, keep, score, 640) for label, keep in (("the paper's", "resnet56"), ("0.75", 0.75), ("0.5", 0.5))
      for score in ("ortho", "random")),
    *(("resnet20", label, keep, "ortho", images) for label, keep in (("0.75", 0.75), ("0.5", 0.5)) for images in (160, 2560)),
    ("resnet56", "the paper's", "resnet56", "ortho", 2560),
    *(("mobilenet_v2", f"{keep:g}", keep, score, 128) for keep in (0.9, 0.75) for score in ("ortho", "random")),
)  # fmt: skip
"""Network, what is kept for people and for CFDP, score, images."""

TUNED = (
    ("resnet20", "0.5", 0.5, 0.05, 100),
    ("resnet20", "0.5", 0.5, 0.01, 100),
    ("resnet20", "0.5", 0.5, 0.05, 390),
    ("resnet20", "0.5", 0.5, 0.01, 390),
    ("resnet56", "the paper's", "resnet56", 0.01, 100),
)
"""Network, what is kept, the peak of the learning rate, steps."""
SEEDS = (0,)


def method(keep: Any, score: str, seed: int = 0) -> st.CFDP:
    return st.CFDP(keep=keep, score=score, round_to=1, seed=seed)


def once(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """A result, and the seconds that it took."""
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, {"wall": round(time.perf_counter() - wall, 1), "processor": round(time.process_time() - processor, 1)}


class Cifar:
    """The ResNets on CIFAR-10."""

    def __init__(self) -> None:
        self.train, test = cifar10(train=True), cifar10(train=False)
        self.test = test[:TESTED]

    def network(self, name: str) -> nn.Module:
        """The pretrained network."""
        model = NETWORKS[name]()
        model.load_state_dict(weights(f"cifar10-{name}"))
        return model.eval()

    def calibration(self, count: int, seed: int = 0) -> Tensor:
        """Training images as the network sees them."""
        rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:count]
        return inputs(self.train.pixels[rows]).contiguous()

    def accuracy(self, model: nn.Module) -> float:
        """Top-1 in percent."""
        return accuracy(model, self.test)


class ImageNet:
    """MobileNetV2, its norms folded into the convolutions, on 1,300 images of the validation set."""

    def __init__(self) -> None:
        from pointwise_mobilenetv2 import answers, network, prepared
        from realdata import imagenet

        self._network, self._prepared, self._answers = network(), prepared, answers
        self.images, self.labels = imagenet("imagenet-val-1300.npz", crop=224)
        self.sample, _ = imagenet("imagenet-sample-1000.npz", crop=224)

    def network(self, _: str) -> nn.Module:
        """The pretrained network."""
        return copy.deepcopy(self._network)

    def calibration(self, count: int) -> Tensor:
        """Other images as the network sees them."""
        rows = torch.randperm(len(self.sample), generator=torch.Generator().manual_seed(0))[:count]
        return self._prepared(self.sample[rows]).contiguous()

    def accuracy(self, model: nn.Module) -> float:
        """Top-1 in percent."""
        return round(100 * (self._answers(model, self.images) == self.labels).double().mean().item(), 3)


def measured(data: Cifar | ImageNet, network: str, label: str, keep: Any, score: str, images: int) -> dict[str, Any]:
    """One cut, mended in two ways."""
    dense = data.network(network)
    x = data.calibration(images)
    plan, planned = once(lambda: st.plan(dense, method(keep, score), calibration=x))
    cut = plan.apply_(copy.deepcopy(dense))
    found = {"cut": data.accuracy(cut)}
    took = {"plan": planned}
    if any(isinstance(module, nn.BatchNorm2d) for module in cut.modules()):
        norms = copy.deepcopy(cut)
        _, took["norms"] = once(lambda: st.reestimate_norms_(norms, x))
        found["norms"] = data.accuracy(norms)
    report, took["repair"] = once(lambda: st.repair_(cut, dense, plan=plan, calibration=x, images=images))
    found["repaired"] = data.accuracy(cut)
    return {
        "network": network, "keep": label, "score": score, "images": images, "tested": TESTED if network in NETWORKS else 1_300,
        "parameters": [plan.before, plan.after], "accuracy": found, "seconds": took,
        "commit": rounds.COMMIT, "output_off": [report.before, report.after], "refitted": len(report.refitted), "layers": len(report.refitted) + len(report.left),
    }  # fmt: skip


def tuned(data: Cifar, network: str, label: str, keep: Any, lr: float, steps: int, seed: int) -> dict[str, Any]:
    """Some steps of SGD from the cut as it is, and from the repaired one."""
    dense, x = data.network(network), data.calibration(640, seed)
    plan = st.plan(dense, method(keep, "ortho"), calibration=x)
    found: dict[str, float] = {}
    for start in ("cut", "repaired"):
        model = plan.apply_(copy.deepcopy(dense))
        if start == "repaired":
            st.repair_(model, dense, plan=plan, calibration=x)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
        work = Plan(steps=steps, batch=128, lr=lr, warmup=0.05, bfloat16=False, seed=seed)
        name = f"{network}-{label}-{lr:g}-{steps}-{seed}-{start}.pt".replace(" ", "-").replace("'", "")
        trained_(model, optimizer, data.train, work, CHECKPOINTS / name)
        found[start] = data.accuracy(model)
    return {"network": network, "keep": label, "lr": lr, "steps": steps, "seed": seed, "accuracy": found}


def run(only: str | None) -> dict[str, Any]:
    """Measure what is not in the file; it is written after each row."""
    path = rounds.RESULTS / f"{NAME}.json"
    results = read(path) or {"rows": [], "tuned": [], "dense": {}}
    for row in results["rows"]:
        row.setdefault("commit", results["commit"])
    cifar: Cifar | None = None
    imagenet: ImageNet | None = None

    def write() -> None:
        rounds.write(
            NAME,
            results["rows"],
            seed=0,
            tuned=results["tuned"],
            dense=results["dense"],
            threads=torch.get_num_threads(),
        )

    for network, label, keep, score, images in CUTS:
        key = {"network": network, "keep": label, "score": score, "images": images}
        if any(key.items() <= row.items() for row in results["rows"]) or (only and only != network):
            continue
        if network in NETWORKS:
            cifar = cifar or Cifar()
        else:
            imagenet = imagenet or ImageNet()
        data: Any = cifar if network in NETWORKS else imagenet
        if network not in results["dense"]:
            results["dense"][network] = data.accuracy(data.network(network))
        results["rows"].append(measured(data, network, label, keep, score, images))
        print(results["rows"][-1], flush=True)
        write()
    for seed in SEEDS:
        for network, label, keep, lr, steps in TUNED:
            key = {"network": network, "keep": label, "lr": lr, "steps": steps, "seed": seed}
            if any(key.items() <= row.items() for row in results["tuned"]) or (only and only != "tuned"):
                continue
            cifar = cifar or Cifar()
            results["tuned"].append(tuned(cifar, network, label, keep, lr, steps, seed))
            print(results["tuned"][-1], flush=True)
            write()
    return read(path) or results


# -- for people -------------------------------------------------------------------------------------------------------

_NAMES = {"resnet20": "ResNet-20", "resnet56": "ResNet-56", "mobilenet_v2": "MobileNetV2"}


def table(document: Mapping[str, Any]) -> str:
    """Accuracy without training."""
    lines = [
        "| network | kept | score | images | parameters, % | dense | cut | norms re-estimated | repaired | repair, s |",
        "| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in document["rows"]:
        found, (before, after) = row["accuracy"], row["parameters"]
        norms = f"{found['norms']:.2f}" if "norms" in found else "–"
        lines.append(
            f"| {_NAMES[row['network']]} | {row['keep']} | {row['score']} | {row['images']:,} | {100 * after / before:.1f} | "
            f"{document['dense'][row['network']]:.2f} | {found['cut']:.2f} | {norms} | {found['repaired']:.2f} | "
            f"{row['seconds']['repair']['processor']:.1f} |"
        )
    commits = ", ".join(sorted({row["commit"] for row in document["rows"]}))
    photos = ", 1,300 validation images for MobileNetV2" if "mobilenet_v2" in document["dense"] else ""
    return "\n".join(lines) + (
        f"\n\nTop-1 in percent, no training; the first {TESTED:,} test images of CIFAR-10{photos}, one draw of the calibration images each. Processor seconds; {document['hardware'].get('cpu', 'unknown processor')}, "
        f"{document['threads']} thread, torch {document['versions']['torch']}, commits {commits}."
    )


def table_tuned(document: Mapping[str, Any]) -> str:
    """Accuracy after some training."""
    cases: dict[tuple[Any, ...], list[Mapping[str, float]]] = {}
    for row in document["tuned"]:
        cases.setdefault((row["network"], row["keep"], row["lr"], row["steps"]), []).append(row["accuracy"])
    lines = [
        "| network | kept | peak rate | steps | seeds | fine-tuned from the cut | from the repaired cut |",
        "| :-- | :-- | --: | --: | --: | --: | --: |",
    ]
    for (network, keep, lr, steps), found in cases.items():
        cells = [statistics.mean(each[start] for each in found) for start in ("cut", "repaired")]
        lines.append(
            f"| {_NAMES[network]} | {keep} | {lr:g} | {steps} | {len(found)} | {cells[0]:.2f} | {cells[1]:.2f} |"
        )
    return (
        "\n".join(lines)
        + f"\n\nTop-1 in percent on the first {TESTED:,} test images, means over the seeds; batches of 128."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="tables from the file; nothing is measured")
    parser.add_argument("--only", metavar="NAME", help="a network, or 'tuned'")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = read(rounds.RESULTS / f"{NAME}.json") if given.draw else run(given.only)
    if results is None:
        raise SystemExit(f"benchmarks/results/{NAME}.json does not exist. Run without --draw first.")
    print(table(results), table_tuned(results), sep="\n\n")


if __name__ == "__main__":
    main()
