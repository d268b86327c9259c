"""Pretrained ResNets on CIFAR-10, cut by different rankings to the same widths and fine-tuned alike.

    SPECTRIM_DATA=FOLDER python benchmarks/cfdp_cifar10.py                       # train what is missing, then the tables
    SPECTRIM_DATA=FOLDER python benchmarks/cfdp_cifar10.py --cut resnet20-inner --seeds 0 1 2 3 4
    SPECTRIM_DATA=FOLDER python benchmarks/cfdp_cifar10.py --epochs 150 --out runs/long.json
    python benchmarks/cfdp_cifar10.py --draw                                     # tables and plot from the file alone

The folder holds the images (``cifar10-*.npz``) and ``weights/cifar10-resnet*.safetensors``. The rankings are CFDP's
scores, its controls, and where the cut is one that torch-pruning can make by itself, torch-pruning's importances: that
library then also makes the cut. The results are written after every run; finished runs are skipped and an interrupted
one continues from its checkpoint under ``runs/``. Accuracies after fine-tuning are those of a fresh, uncut network of the
same class that was filled from the written artifact.

The two cuts named ``scratch`` are the paper's table 7: the widths and channels are chosen, the weights are drawn anew.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cifar import (
    ROOT,
    Clock,
    Images,
    Plan,
    accuracy,
    cifar10,
    commit,
    inputs,
    options,
    plotted,
    read,
    reestimate_,
    spread,
    tidy,
    told,
    trained_,
    weights,
    write,
)
from torch import nn
from torch.nn import functional as F

import spectrim as st
from spectrim import measure
from spectrim.zoo.resnet_cifar import resnet20, resnet56

RESULTS = ROOT / "benchmarks" / "results" / "cfdp_cifar10.json"
PICTURE = ROOT / "docs" / "_static" / "cfdp_rankings.png"
CHECKPOINTS = ROOT / "runs" / "cfdp_cifar10"
CALIBRATION = 640
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"resnet20": resnet20, "resnet56": resnet56}
OURS = ("ortho", "paper", "official", "l1", "l2", "random")
PEERS = ("tp magnitude", "tp Taylor", "tp LAMP")
PUBLISHED = {
    "resnet56-paper": [
        {"what": "dense, as published with CFDP", "accuracy": 93.26},
        {"what": "HRankPlus, 150 epochs", "accuracy": 93.85},
        {"what": "CFDP, 500 epochs", "accuracy": 93.97},
    ]
}
"""Khaki and Luo 2023, table 2; the epochs are the defaults of the released programs. Best epoch by the test images."""

ABOUT = (
    "Top-1 accuracy in percent on all 10,000 test images. cut: no training; norms_reestimated: batch norms re-estimated on 20 batches "
    "of training images; finetuned: last epoch, a fresh network filled from the written artifact (float16). The seed draws the "
    "calibration images, the random ranking, and the order and crops of the training images. One recipe, not tuned on these runs. "
    "'tp' rankings are torch-pruning's, which then makes the cut; its Taylor importance sees the labels of the calibration images, "
    "and its LAMP orders the filters of one layer as magnitude does, so that at fixed widths the two are one; it was run for one seed."
)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is cut, and how the result is trained.

    Attributes:
        network: In :data:`NETWORKS`.
        keep: CFDP's, with exact widths.
        rankings: Compared at these widths.
        epochs, lr: Of the fine-tuning.
        scratch: Draw the weights anew after the cut.
    """

    network: str
    keep: Any
    rankings: tuple[str, ...]
    epochs: float
    lr: float
    seeds: tuple[int, ...]
    scratch: bool = False


CUTS = {
    "resnet20-inner": Cut(
        network="resnet20", keep={"*.conv1": 0.5}, rankings=OURS + PEERS, epochs=1, lr=0.02, seeds=(0, 1, 2)
    ),
    "resnet56-paper": Cut(network="resnet56", keep="resnet56", rankings=OURS, epochs=0.5, lr=0.02, seeds=(0, 1, 2)),
    "resnet56-longer": Cut(network="resnet56", keep="resnet56", rankings=("ortho",), epochs=4, lr=0.05, seeds=(0,)),
    "resnet20-all": Cut(network="resnet20", keep=0.5, rankings=OURS, epochs=1, lr=0.05, seeds=(0, 1, 2)),
    "resnet20-scratch": Cut(
        network="resnet20", keep=0.5, rankings=("ortho", "ortho untrained", "random"), epochs=3, lr=0.1, seeds=(0, 1, 2),
        scratch=True,
    ),
    "resnet56-inner": Cut(
        network="resnet56", keep={"*.conv1": 0.5}, rankings=("ortho", "l1", "random", *PEERS[:2]), epochs=0.5, lr=0.02, seeds=(0,)
    ),
}  # fmt: skip
"""In the order in which they are run. ``inner``: the first convolution of each block; ``all``: residual streams too."""


# -- cutting ----------------------------------------------------------------------------------------------------------


def pretrained(network: str) -> nn.Module:
    model = NETWORKS[network]()
    model.load_state_dict(weights(f"cifar10-{network}"))
    return model


def cut(work: Cut, ranking: str, seed: int, images: Images) -> nn.Module:
    """The network, cut; on the CPU, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    some = images[torch.randperm(len(images), generator=generator)[:CALIBRATION]]
    torch.manual_seed(seed)
    untrained = NETWORKS[work.network]()
    if ranking.startswith("tp "):
        return cut_by_torch_pruning_(pretrained(work.network).eval(), ranking.removeprefix("tp "), some)
    model = untrained if ranking.endswith("untrained") else pretrained(work.network)
    method = st.CFDP(keep=work.keep, score=ranking.split(maxsplit=1)[0], round_to=1, seed=seed)
    st.compress_(model.eval(), method, calibration=inputs(some.pixels).split(128))
    if work.scratch:
        torch.manual_seed(seed + 1)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    return model


def cut_by_torch_pruning_(model: nn.Module, importance: str, images: Images) -> nn.Module:
    """Halve the first convolution of each block with torch-pruning, as its users do."""
    import torch_pruning as tp

    importances = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "Taylor": tp.importance.GroupTaylorImportance,
        "LAMP": tp.importance.LAMPImportance,
    }
    inner = [module for name, module in model.named_modules() if name.endswith(".conv1")]
    others = [
        module for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not any(module is each for each in inner)
    ]  # fmt: skip
    for rows in range(0, len(images), 128):
        part = images[rows : rows + 128]
        F.cross_entropy(model(inputs(part.pixels)), part.labels, reduction="sum").backward()
    example = inputs(images.pixels[:1])
    tp.pruner.BasePruner(
        model, example, importance=importances[importance](), pruning_ratio=0.5, ignored_layers=others
    ).step()
    model.zero_grad()
    return model


# -- the runs ---------------------------------------------------------------------------------------------------------


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def reloaded(model: nn.Module, network: str) -> nn.Module:
    """A fresh, uncut network filled from the artifact of a cut one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cut.safetensors"
        st.save(model, file)
        return st.load_(NETWORKS[network](), file)


def entry(
    name: str, work: Cut, ranking: str, seed: int, train: Images, test: Images, program: str | None
) -> dict[str, Any]:
    """One run: cut, fine-tune, write, load, test."""
    device = test.pixels.device
    started = Clock()
    model = cut(work, ranking, seed, train[:].to(torch.device("cpu")))
    started.lap()
    example = inputs(test.pixels[:1]).cpu()
    parameters, macs = parameters_of(model), measure.macs(model, example)
    model = model.to(device, memory_format=torch.channels_last)
    alone = accuracy(model, test)
    reestimate_(model, train)
    again = accuracy(model, test)
    fast = measure.fast_bfloat16(device)
    plan = Plan(
        steps=round(work.epochs * (len(train) // 128)), batch=128, lr=work.lr, warmup=0.05, bfloat16=fast, seed=seed
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=work.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    checkpoint = CHECKPOINTS / f"{name}-{ranking.replace(' ', '-')}-{seed}-{work.epochs:g}.pt"
    clock = trained_(model, optimizer, train, plan, checkpoint)
    final = reloaded(model.cpu(), work.network).to(device, memory_format=torch.channels_last)
    return {
        "cut": name,
        "ranking": ranking,
        "seed": seed,
        "parameters": parameters,
        "macs": macs,
        "accuracy": {"cut": alone, "norms_reestimated": again, "finetuned": accuracy(final, test)},
        "cut_seconds": started.to_json(),
        "training_seconds": clock.to_json(),
        "precision": "bf16" if fast else "no",
        "device": device.type,
        "hardware": measure.hardware(),
        "versions": measure.versions(),
        "commit": program,
    }


def run(out: Path, names: list[str], seeds: list[int] | None, epochs: float | None) -> dict[str, Any]:
    """Do what the file lacks, seed after seed; it is written after every run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = read(out) or {
        "benchmark": "cfdp_cifar10", "about": ABOUT, "data": "CIFAR-10", "calibration": CALIBRATION,
        "published": PUBLISHED, "cuts": {}, "dense": {}, "entries": [],
    }  # fmt: skip
    program = commit()
    train, test = (cifar10(train=split).to(device) for split in (True, False))
    for name in names:
        work = replace(CUTS[name], **({} if epochs is None else {"epochs": epochs}))
        said = {key: value for key, value in asdict(work).items() if key not in ("seeds", "rankings")}
        if results["cuts"].setdefault(name, said) != said:
            raise SystemExit(
                f"{out} holds results of {name} by another recipe: {results['cuts'][name]}. Use another --out."
            )
        if work.network not in results["dense"]:
            model = pretrained(work.network).eval()
            example = inputs(test.pixels[:1]).cpu()
            facts = {"parameters": parameters_of(model), "macs": measure.macs(model, example)}
            results["dense"][work.network] = facts | {"accuracy": accuracy(model.to(device), test)}
        for seed in seeds or work.seeds:
            for ranking in work.rankings:
                if ranking == "tp LAMP" and seed > 0:  # the same cut and so the same run as magnitude's
                    continue
                if any((e["cut"], e["ranking"], e["seed"]) == (name, ranking, seed) for e in results["entries"]):
                    continue
                found = entry(name, work, ranking, seed, train, test, program)
                print(
                    f"{name}, {ranking}, seed {seed}: {found['accuracy']}, {found['training_seconds']['wall']:.0f} s",
                    flush=True,
                )
                results["entries"].append(found)
                write(out, results)
    return results


# -- for people -------------------------------------------------------------------------------------------------------


def table(results: Mapping[str, Any]) -> str:
    """For each cut a Markdown table of its rankings: mean and deviation over the seeds."""
    parts = []
    for name, said in results["cuts"].items():
        dense = results["dense"][said["network"]]
        entries = [each for each in results["entries"] if each["cut"] == name]
        if not entries:
            continue
        first = entries[0]
        what = {str: f"the paper's rates for {said['keep']}", float: f"keep {said['keep']} everywhere"}.get(
            type(said["keep"]), f"keep {said['keep']}"
        )
        parts.append(
            f"**{name}**: {what}; {first['parameters']:,} of {dense['parameters']:,} parameters, {first['macs'] / 1e6:.2f} of "
            f"{dense['macs'] / 1e6:.2f} million MACs; dense {dense['accuracy']:.2f} %; {said['epochs']:g} epochs of "
            f"{'training from new weights' if said['scratch'] else 'fine-tuning'}.\n"
        )
        lines = [
            "| ranking | cut alone, % | norms re-estimated, % | trained, % | seeds |",
            "| :-- | --: | --: | --: | --: |",
        ]
        for ranking in CUTS[name].rankings:
            mine = [each["accuracy"] for each in entries if each["ranking"] == ranking]
            if mine:
                cells = [spread([one[key] for one in mine]) for key in ("cut", "norms_reestimated", "finetuned")]
                cells = ["", "", cells[2]] if said["scratch"] else cells
                lines.append(f"| `{ranking}` | {' | '.join(cells)} | {len(mine)} |")
        lines += [f"| {each['what']} | | | {each['accuracy']:.2f} | |" for each in results["published"].get(name, ())]
        parts.append("\n".join(lines) + "\n")
    first = results["entries"][0]
    commits = ", ".join(sorted({str(each["commit"])[:12] for each in results["entries"]}))
    hardware = sorted({each["hardware"]["accelerator"] or each["hardware"]["cpu"] for each in results["entries"]})
    return "\n".join(parts) + f"\n{', '.join(hardware)}, torch {first['versions']['torch']}, commit {commits}."


def draw(results: Mapping[str, Any], picture: Path) -> None:
    """The rankings of each cut side by side: every seed a dot, before and after the fine-tuning."""
    names = [name for name, said in results["cuts"].items() if not said["scratch"]
             and any(each["cut"] == name for each in results["entries"])]  # fmt: skip
    rows = (("finetuned", "fine-tuned, %"), ("norms_reestimated", "norms re-estimated,\nno training, %"))
    colours = dict.fromkeys(OURS[:3], "#0b6e99") | dict.fromkeys(OURS[3:], "0.45") | dict.fromkeys(PEERS, "#b5651d")
    with plotted(picture, 2, len(names), figsize=(0.6 + 3.1 * len(names), 5.2), sharex="col") as grid:
        for column, name in enumerate(names):
            said = results["cuts"][name]
            rankings = [each for each in CUTS[name].rankings if any(
                e["ranking"] == each and e["cut"] == name for e in results["entries"])]  # fmt: skip
            for (key, label), axes in zip(rows, grid[:, column], strict=True):
                for place, ranking in enumerate(rankings):
                    values = [
                        e["accuracy"][key] for e in results["entries"] if (e["cut"], e["ranking"]) == (name, ranking)
                    ]
                    colour = colours[ranking]
                    axes.plot([place] * len(values), values, "o", color=colour, ms=4.5, alpha=0.65, mew=0)
                    axes.plot([place - 0.3, place + 0.3], [statistics.fmean(values)] * 2, color=colour, lw=2)
                axes.set_xticks(range(len(rankings)), rankings, rotation=60, fontsize=8)
                tidy(axes, grid="y")
                if column == 0:
                    axes.set_ylabel(label, fontsize=9)
            grid[0, column].set_title(f"{name}, epochs: {said['epochs']:g}", fontsize=9, loc="left")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = options(str(__doc__), RESULTS, seeds="in place of each cut's own", epochs="in place of each cut's own")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--cut", nargs="+", choices=list(CUTS), default=list(CUTS))
    given = parser.parse_args(arguments)
    results = read(given.out) if given.draw else run(given.out, given.cut, given.seeds, given.epochs)
    return told(results, given.out, table=table, draw=draw, picture=given.picture)


if __name__ == "__main__":
    raise SystemExit(main())
