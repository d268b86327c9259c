"""Cut and dense networks under attack: FGSM and PGD with 20 steps, in the space of pixels.

The networks are those that ``cfdp_cifar10.py`` has trained; its checkpoints under ``runs/`` have to be there.

    SPECTRIM_DATA=FOLDER python benchmarks/cfdp_robustness.py      # adds what benchmarks/results/cfdp_robustness.json lacks
    python benchmarks/cfdp_robustness.py --draw                    # the table from the file alone

The protocol is ours, as the paper (table 8) does not state its own: pixels in [0, 1], perturbations of at most ε in every
pixel, clipped to [0, 1]; evaluation mode; the gradient of the cross entropy of the true class; PGD starts at a random
point, takes 20 steps of ε/4, and does not restart. The attacks are those of the adversarial-robustness-toolbox. An
accuracy under PGD is an upper bound of what a stronger attack leaves.
"""

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cfdp_cifar10 import CHECKPOINTS, CUTS, cut, pretrained
from cifar import MEAN, ROOT, STD, Images, cifar10, commit, read, write
from torch import nn

from spectrim import measure

RESULTS = ROOT / "benchmarks" / "results" / "cfdp_robustness.json"
IMAGES = 400
STEPS = 20
EPSILONS: Mapping[str, tuple[float, ...]] = {
    "FGSM": (0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 0.05, 0.1, 0.2, 0.3),
    "PGD-20": (0.5 / 255, 1 / 255, 2 / 255, 8 / 255),  # nothing is left beyond that
}
ABOUT = (
    f"Top-1 accuracy in percent on the first {IMAGES} test images, attacked at each epsilon. Undefended networks: no adversarial "
    "training anywhere. dense: the pretrained network. The others: cut and fine-tuned by cfdp_cifar10.py."
)


def network(name: str, ranking: str, seed: int, train: Images) -> nn.Module | None:
    """A network that was trained before; None if it was not."""
    work = CUTS[name]
    if ranking == "dense":
        return pretrained(work.network).eval()
    checkpoint = CHECKPOINTS / f"{name}-{ranking.replace(' ', '-')}-{seed}-{work.epochs:g}.pt"
    if not checkpoint.exists():
        return None
    model = cut(work, ranking, seed, train)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return model.eval()


def attacked(model: nn.Module, images: Images, *, seed: int) -> dict[str, Any]:
    """Accuracy without an attack, and under each."""
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    mean, std = (np.array(values, dtype=np.float32).reshape(3, 1, 1) for values in (MEAN, STD))
    device = "gpu" if torch.cuda.is_available() else "cpu"
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (3, 32, 32),
        10,
        clip_values=(0.0, 1.0),
        preprocessing=(mean, std),
        device_type=device,
    )
    x = (images.pixels[:IMAGES].float() / 255).permute(0, 3, 1, 2).contiguous().numpy()
    y = images.labels[:IMAGES].numpy()

    def accuracy(pixels: np.ndarray) -> float:
        return round(100 * float((classifier.predict(pixels, batch_size=250).argmax(1) == y).mean()), 2)

    found: dict[str, Any] = {"clean": accuracy(x)}
    for name, epsilons in EPSILONS.items():
        found[name] = {}
        for epsilon in epsilons:
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - where the toolbox draws its first point from
            if name == "FGSM":
                attack = FastGradientMethod(classifier, eps=epsilon, batch_size=250)
            else:
                attack = ProjectedGradientDescentPyTorch(
                    classifier, eps=epsilon, eps_step=epsilon / 4, max_iter=STEPS, num_random_init=1, batch_size=250, verbose=False
                )  # fmt: skip
            changed = attack.generate(x, y)
            assert np.abs(changed - x).max() <= epsilon + 1e-6
            assert changed.min() >= 0
            assert changed.max() <= 1
            found[name][f"{epsilon:.4f}"] = accuracy(changed)
    return found


def run(out: Path, names: list[str], rankings: list[str]) -> dict[str, Any]:
    """Attack what the file lacks."""
    results = read(out) or {
        "benchmark": "cfdp_robustness",
        "about": ABOUT,
        "images": IMAGES,
        "steps": STEPS,
        "entries": [],
    }
    program = commit()
    train, test = (cifar10(train=split) for split in (True, False))
    for name in names:
        for seed in CUTS[name].seeds:
            for ranking in ("dense", *rankings) if seed == 0 else rankings:
                if any((e["cut"], e["ranking"], e["seed"]) == (name, ranking, seed) for e in results["entries"]):
                    continue
                model = network(name, ranking, seed, train)
                if model is None:
                    print(f"{name}, {ranking}, seed {seed}: not trained yet; run cfdp_cifar10.py first")
                    continue
                found = {"cut": name, "network": CUTS[name].network, "ranking": ranking, "seed": seed}
                found |= {"accuracy": attacked(model, test, seed=seed)}
                found |= {"hardware": measure.hardware(), "versions": measure.versions(), "commit": program}
                print(f"{name}, {ranking}, seed {seed}: {found['accuracy']}", flush=True)
                results["entries"].append(found)
                write(out, results)
    return results


def table(results: Mapping[str, Any]) -> str:
    """A row for each network and attack; mean over the seeds."""
    entries = results["entries"]
    epsilons = [f"{each:.4f}" for each in EPSILONS["FGSM"]]
    named = {f"{n / 255:.4f}": f"{n:g}/255" for n in (0.5, 1, 2, 4, 8)}
    lines = [
        f"| network, attack | clean | {' | '.join(named.get(e, f'{float(e):g}') for e in epsilons)} | seeds |",
        f"| :-- | {' | '.join(['--:'] * (len(epsilons) + 2))} |",
    ]
    for name, ranking in dict.fromkeys((each["cut"], each["ranking"]) for each in entries):
        mine = [each["accuracy"] for each in entries if (each["cut"], each["ranking"]) == (name, ranking)]
        what = f"{CUTS[name].network}, dense" if ranking == "dense" else f"{name}, `{ranking}`"
        for attack in EPSILONS:
            cells = [_mean([one[attack][e] for one in mine if e in one[attack]]) for e in epsilons]
            lines.append(
                f"| {what}, {attack} | {_mean([one['clean'] for one in mine])} | {' | '.join(cells)} | {len(mine)} |"
            )
    first = entries[0]
    commits = ", ".join(sorted({str(each["commit"])[:12] for each in entries}))
    return "\n".join(lines) + f"\n\n{first['hardware']['cpu']}, torch {first['versions']['torch']}, commit {commits}."


def _mean(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f}" if values else ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cut", nargs="+", choices=list(CUTS), default=["resnet20-inner", "resnet56-paper"])
    parser.add_argument("--rankings", nargs="+", default=["ortho", "random"])
    parser.add_argument("--draw", action="store_true", help="the table from the file alone")
    given = parser.parse_args()
    results = read(given.out) if given.draw else run(given.out, given.cut, given.rankings)
    if results is None or not results["entries"]:
        raise SystemExit(f"nothing in {given.out} yet.")
    print(table(results))


if __name__ == "__main__":
    main()
