"""Pretrained ResNets on CIFAR-10 whose filters are rebuilt from others, against plain filter pruning at the same cost.

    SPECTRIM_DATA=FOLDER python benchmarks/template_cifar10.py                   # train what is missing, then the table
    SPECTRIM_DATA=FOLDER python benchmarks/template_cifar10.py --only '*-48-*' --seeds 0 1 2
    SPECTRIM_DATA=FOLDER python benchmarks/template_cifar10.py --epochs 300 --out runs/long.json
    python benchmarks/template_cifar10.py --draw                                 # table and plot from the file alone

The folder holds the images (``cifar10-*.npz``) and ``weights/cifar10-resnet*.safetensors``. All runs of a network have one
schedule. Results are written after every run; finished runs are skipped and an interrupted one continues from its
checkpoint under ``runs/``, if it got that far. Accuracies are those of a fresh network of the same class, filled from the written artifact.

The control, ``pruned``, is the same layer with the same ranking and schedule whose transformations are zero. Its pruned
filters cost nothing, and where they are the only inputs of the next convolution (inside a block) nor do that layer's
weights on them; so at the same multiply-accumulates it keeps more filters than a layer that rebuilds them. With ``refit``
what is left is fitted anew at every stage, in closed form, to what the layers wrote before it.
"""

import fnmatch
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    spread,
    tidy,
    told,
    trained_,
    weights,
    write,
)
from pruned_refit import due, plain, refit_
from torch import Tensor, nn
from torch.nn import functional as F

import spectrim as st
from spectrim import measure
from spectrim.nn.component import components
from spectrim.nn.reconstructed import TemplateConv
from spectrim.nn.template_costs import products, stored, stored_by_equation
from spectrim.training.distillation import distilled
from spectrim.zoo.resnet_cifar import resnet20, resnet56

RESULTS = ROOT / "benchmarks" / "results" / "template_cifar10.json"
PICTURE = ROOT / "docs" / "_static" / "template_cifar10.png"
CHECKPOINTS = ROOT / "runs" / "template_cifar10"
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"resnet20": resnet20, "resnet56": resnet56}
EPOCHS = {"resnet20": 0.5, "resnet56": 0.25}
PRUNING, STAGES, LR, BATCH, WARMUP = 0.4, 10, 0.02, 128, 0.05
REFITTED = 640
"""Images of the training set that a refit looks at."""
PUBLISHED = [
    {"network": "resnet56", "what": "dense", "accuracy": 93.60, "less_macs": 0.0},
    {"network": "resnet56", "what": "rebuilt", "accuracy": 94.18, "less_macs": 35.91},
    {"network": "resnet56", "what": "rebuilt", "accuracy": 93.35, "less_macs": 48.27},
    {"network": "resnet56", "what": "rebuilt", "accuracy": 92.81, "less_macs": 56.36},
]
"""Miles and Mikolajczyk 2023, table of CIFAR-10: 300 epochs, pruning over the first 40; two groups, at least 8 templates."""

ABOUT = (
    "Top-1 accuracy in percent on all 10,000 test images of a fresh network filled from the written artifact (float16), after the "
    "last step. macs: both stages of each layer (equation 3.5), at the templates that the run ended with; the target is met at "
    "the ranking of the pretrained weights. SGD, Nesterov momentum 0.9, batch 128, weight decay 5e-4 on all but vectors, a warm "
    f"start over {WARMUP:.0%} of the steps and half a cosine; the pruned share rises in {STAGES} stages over the first {PRUNING:.0%} "
    "of the steps. Crops and mirrored images, float32. The seed draws their order. One recipe, not tuned on these runs."
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to make a network cheaper.

    Attributes:
        less: Multiply-accumulates that go, in percent; 0 trains the dense network alike.
        control: Set all transformations to zero.
        refit: Fit what the control keeps to what the layers wrote, at every stage.
        settings: Of the method, beside its defaults.
        distillation: From the pretrained network, in place of cross-entropy: the divergence's share, and the temperature.
        epochs: In place of the network's own.
    """

    network: str
    less: int
    control: bool = False
    refit: bool = False
    settings: Mapping[str, Any] | None = None
    distillation: Mapping[str, float] | None = None
    seeds: tuple[int, ...] = (0,)
    epochs: float | None = None


OUTPUTS = {"assign": "outputs", "start": "outputs"}
ARMS = {
    "resnet20-48-rebuilt": Arm(network="resnet20", less=48, seeds=(0, 1, 2)),
    "resnet20-48-pruned": Arm(network="resnet20", less=48, control=True, seeds=(0, 1, 2)),
    "resnet20-48-pruned-refit": Arm(network="resnet20", less=48, control=True, refit=True, seeds=(0, 1, 2)),
    "resnet20-36-rebuilt": Arm(network="resnet20", less=36),
    "resnet20-36-pruned": Arm(network="resnet20", less=36, control=True),
    "resnet20-56-rebuilt": Arm(network="resnet20", less=56),
    "resnet20-56-pruned": Arm(network="resnet20", less=56, control=True),
    "resnet20-dense": Arm(network="resnet20", less=0),
    "resnet20-48-rotation": Arm(network="resnet20", less=48, settings={"family": "rotation"}),
    "resnet20-48-affine": Arm(network="resnet20", less=48, settings={"family": "affine"}),
    "resnet20-48-one-group": Arm(network="resnet20", less=48, settings={"groups": 1}),
    "resnet20-48-four-groups": Arm(network="resnet20", less=48, settings={"groups": 4}),
    "resnet20-48-distilled": Arm(network="resnet20", less=48, distillation={"share": 1.0, "temperature": 5.0}),
    "resnet20-48-distilled-sharp": Arm(
        network="resnet20", less=48, distillation={"share": 1.0, "temperature": 1.0}
    ),
    "resnet20-48-outputs": Arm(network="resnet20", less=48, settings=OUTPUTS),
    "resnet20-56-outputs": Arm(network="resnet20", less=56, settings=OUTPUTS),
    "resnet20-36-outputs": Arm(network="resnet20", less=36, settings=OUTPUTS),
    "resnet56-48-outputs": Arm(network="resnet56", less=48, settings=OUTPUTS, seeds=(0, 1, 2)),
    "resnet56-48-rebuilt": Arm(network="resnet56", less=48, seeds=(0, 1, 2)),
    "resnet56-48-pruned": Arm(network="resnet56", less=48, control=True, seeds=(0, 1, 2)),
    "resnet56-36-outputs": Arm(network="resnet56", less=36, settings=OUTPUTS),
    "resnet56-56-outputs": Arm(network="resnet56", less=56, settings=OUTPUTS),
    "resnet56-36-rebuilt": Arm(network="resnet56", less=36),
    "resnet56-56-rebuilt": Arm(network="resnet56", less=56),
    "resnet56-36-pruned": Arm(network="resnet56", less=36, control=True),
    "resnet56-56-pruned": Arm(network="resnet56", less=56, control=True),
    "resnet20-48-pruned-longer": Arm(network="resnet20", less=48, control=True, epochs=3),
    "resnet20-51-pruned-longer": Arm(network="resnet20", less=51, control=True, epochs=3),
    "resnet20-48-outputs-longer": Arm(network="resnet20", less=48, settings=OUTPUTS, epochs=3),
    "resnet20-48-rebuilt-longer": Arm(network="resnet20", less=48, epochs=3),
    "resnet20-48-ones": Arm(network="resnet20", less=48, settings={"start": "ones"}),
    "resnet20-48-cosine": Arm(network="resnet20", less=48, settings={"assign": "cosine"}),
    "resnet20-48-half-labels": Arm(
        network="resnet20", less=48, distillation={"share": 0.5, "temperature": 1.0}
    ),
}  # fmt: skip
"""In the order in which they are run: seed 0 of all, then the other seeds."""


# -- what it costs ----------------------------------------------------------------------------------------------------


def layers_of(model: nn.Module) -> dict[str, TemplateConv]:
    return {path: each for path, each in components(model) if isinstance(each, TemplateConv)}


def cost(model: nn.Module, network: str, *, control: bool) -> dict[str, int]:
    """Multiply-accumulates of one image, parameters, and parameters by the paper's equation, at the present templates."""
    dense = NETWORKS[network]()
    report = measure.macs_report(dense, torch.zeros(1, 3, 32, 32))
    layers, found = layers_of(model), {"macs": report.total}
    found["parameters"] = found["parameters_by_equation"] = sum(each.numel() for each in dense.parameters())
    for path, layer in layers.items():
        sizes, templates = layer.sizes, layer.sizes.outside - len(layer.pruned)
        whole = sizes.inside * sizes.outside * sizes.taps
        positions = report.by_module[path] // whole
        if control:
            feeding = layers.get(path.replace(".conv2", ".conv1")) if path.endswith(".conv2") else None
            inside = sizes.inside - (len(feeding.pruned) if feeding is not None else 0)
            each = left = by_equation = inside * templates * sizes.taps
        else:
            how = {"groups": layer.groups, "family": layer.family}
            each = products(sizes, templates, **how)
            left = stored(sizes, templates, **how)
            by_equation = stored_by_equation(sizes, templates, groups=layer.groups)
        found["macs"] -= positions * (whole - each)
        found["parameters"] -= whole - left
        found["parameters_by_equation"] -= whole - by_equation
    return found


def pretrained(network: str) -> nn.Module:
    model = NETWORKS[network]()
    model.load_state_dict(weights(f"cifar10-{network}"))
    return model


def compressed(arm: Arm) -> nn.Module:
    """The network at the start of its training: every filter still a template."""
    settings = {"stages": STAGES, **(arm.settings or {})}
    images = torch.zeros(1, 3, 32, 32)
    if not arm.less:
        return pretrained(arm.network)
    if not arm.control:
        method = st.ReconstructedFilters(target=f"macs:{1 - arm.less / 100:.2f}", **settings)
        return st.compress_(pretrained(arm.network), method, calibration=images)
    limit = (1 - arm.less / 100) * measure.macs(NETWORKS[arm.network](), images)
    low, high = 0.0, 1.0
    for _ in range(12):
        keep = (low + high) / 2
        try:
            tried = st.compress_(pretrained(arm.network), st.ReconstructedFilters(keep=keep, **settings))
        except ValueError:  # fewer templates than every layer keeps
            low = keep
            continue
        st.anneal_(tried, 1.0)
        low, high = (keep, high) if cost(tried, arm.network, control=True)["macs"] <= limit else (low, keep)
    model = st.compress_(pretrained(arm.network), st.ReconstructedFilters(keep=low, **settings))
    for layer in layers_of(model).values():
        layer.transformations.requires_grad_(False)
    return model


@torch.no_grad()
def prune_(model: nn.Module) -> None:
    """Make what is pruned contribute nothing: neither by the convolution, nor by the norm after it."""
    for path, layer in layers_of(model).items():
        layer.transformations.zero_()
        gone = sorted(layer.pruned)
        norm = model.get_submodule(path.replace("conv", "bn"))
        norm.weight[gone] = 0
        norm.bias[gone] = 0


# -- the runs ---------------------------------------------------------------------------------------------------------


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    trained = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": 5e-4},
        {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=LR, momentum=0.9, nesterov=True)


def entry(name: str, seed: int, epochs: float, train: Images, test: Images, program: str | None) -> dict[str, Any]:
    """One run: compress, train, write, load, test."""
    arm = ARMS[name]
    device = test.pixels.device
    model = compressed(arm)
    planned = {path: each.rebuilding.keep for path, each in layers_of(model).items() if each.rebuilding is not None}
    model = model.to(device, memory_format=torch.channels_last)
    teacher = pretrained(arm.network).to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    steps = round(epochs * (len(train) // BATCH))
    plan = Plan(steps=steps, batch=BATCH, lr=LR, warmup=WARMUP, bfloat16=False, seed=seed)

    def after(done: int) -> None:
        progress = min(1.0, done / (PRUNING * steps))
        before = plain(model) if arm.refit and due(model, progress) else None
        st.anneal_(model, progress)
        if arm.control:
            prune_(model)
        if before is not None:
            refit_(model, before, inputs(train.pixels[:REFITTED]))

    def loss_of(scores: Tensor, labels: Tensor, x: Tensor) -> Tensor:
        if arm.distillation is None:
            return F.cross_entropy(scores, labels)
        with torch.no_grad():
            taught = teacher(x)
        return distilled(scores, taught, labels, **arm.distillation)

    checkpoint = CHECKPOINTS / f"{name}-{seed}-{epochs:g}.pt"
    clock = trained_(model, optimizer_of(model), train, plan, checkpoint, after=after, loss_of=loss_of)
    model = model.cpu()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rebuilt.safetensors"
        st.save(model, file)
        final, size = st.load_(NETWORKS[arm.network](), file), file.stat().st_size
    tested = Clock()
    found = accuracy(final.to(device, memory_format=torch.channels_last), test)
    tested.lap()
    return {
        "arm": name,
        "network": arm.network,
        "less_macs": arm.less,
        "control": arm.control,
        "refit": arm.refit,
        "settings": dict(arm.settings or {}),
        "distillation": None if arm.distillation is None else dict(arm.distillation),
        "seed": seed,
        "epochs": epochs,
        "keep": next(iter(planned.values()), 1.0),
        "templates": {path: each.sizes.outside - len(each.pruned) for path, each in layers_of(model).items()},
        **cost(model, arm.network, control=arm.control),
        "bytes": size,
        "accuracy": found,
        "training_seconds": clock.to_json(),
        "test_seconds": tested.to_json(),
        "device": device.type,
        "hardware": measure.hardware(),
        "versions": measure.versions(),
        "commit": program,
    }


def run(out: Path, only: str, seeds: list[int] | None, epochs: float | None) -> dict[str, Any]:
    """Do what the file lacks, the first seed of all arms first; it is written after every run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = read(out) or {
        "benchmark": "template_cifar10", "about": ABOUT, "data": "CIFAR-10", "published": PUBLISHED, "dense": {}, "entries": [],
    }  # fmt: skip
    program = commit()
    train, test = (cifar10(train=split).to(device) for split in (True, False))
    for network in {arm.network for name, arm in ARMS.items() if fnmatch.fnmatch(name, only)} - results["dense"].keys():
        model = pretrained(network).to(device, memory_format=torch.channels_last)
        facts = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "macs": measure.macs(model, inputs(test.pixels[:1])),
        }
        results["dense"][network] = facts | {"accuracy": accuracy(model, test)}
    turns = [
        (place, name, seed)
        for name, arm in ARMS.items() if fnmatch.fnmatch(name, only)
        for place, seed in enumerate(seeds or arm.seeds)
    ]  # fmt: skip
    for _, name, seed in sorted(turns, key=lambda turn: turn[0]):
        length = epochs or ARMS[name].epochs or EPOCHS[ARMS[name].network]
        if any((each["arm"], each["seed"], each["epochs"]) == (name, seed, length) for each in results["entries"]):
            continue
        found = entry(name, seed, length, train, test, program)
        less = 100 * (1 - found["macs"] / results["dense"][found["network"]]["macs"])
        said = f"{found['accuracy']:.2f} % at {less:.1f} % fewer MACs, {found['training_seconds']['wall']:.0f} s"
        print(f"{name}, seed {seed}: {said}", flush=True)
        results["entries"].append(found)
        write(out, results)
    return results


# -- for people -------------------------------------------------------------------------------------------------------


def table(results: Mapping[str, Any]) -> str:
    """A Markdown table: every arm with what is left and its accuracy over the seeds, then what was published."""
    lines = [
        "| run | epochs | fewer MACs, % | fewer parameters, % | by equation 3.9, % | accuracy, % | seeds |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
    ]
    entries = results["entries"]
    for name in dict.fromkeys(each["arm"] for each in sorted(entries, key=lambda e: list(ARMS).index(e["arm"]))):
        mine = [each for each in entries if each["arm"] == name]
        dense = results["dense"][mine[0]["network"]]
        less = [
            statistics.fmean(100 * (1 - each[key] / dense[key.removesuffix("_by_equation")]) for each in mine)
            for key in ("macs", "parameters", "parameters_by_equation")
        ]
        accuracies = [each["accuracy"] for each in mine]
        by_equation = "–" if mine[0]["control"] else f"{less[2]:.1f}"
        lines.append(
            f"| `{name}` | {mine[0]['epochs']:g} | {less[0]:.1f} | {less[1]:.1f} | {by_equation} | "
            f"{spread(accuracies)} | {len(mine)} |"
        )
    lines += [
        f"| {each['network']}, {each['what']}, as published | 300 | {each['less_macs']:.1f} | | | {each['accuracy']:.2f} | |"
        for each in results["published"]
    ]
    dense = ", ".join(f"{name} {each['accuracy']:.2f} %" for name, each in results["dense"].items())
    commits = ", ".join(sorted({str(each["commit"])[:12] for each in entries}))
    cpu = ", ".join(sorted({str(each["hardware"]["cpu"]) for each in entries}))
    return (
        "\n".join(lines)
        + f"\n\nPretrained: {dense}. {cpu}, torch {entries[0]['versions']['torch']}, commits {commits}."
    )


def draw(results: Mapping[str, Any], picture: Path) -> None:
    """Accuracy against multiply-accumulates, and the ways to reach one budget side by side; every seed is a dot."""
    entries = results["entries"]
    names = [name for name in NETWORKS if any(each["network"] == name for each in entries)]
    with plotted(picture, len(names), 2, figsize=(9.2, 3.7 * len(names)), width_ratios=(1.15, 1)) as grid:
        for name, (curve, ways) in zip(names, grid, strict=True):
            mine = [each for each in entries if each["network"] == name and each["epochs"] == EPOCHS[name]]
            dense = results["dense"][name]
            usual = [each for each in mine if not (each["settings"] or each["distillation"] or each.get("refit"))]
            for label, mine_, colour in (
                ("rebuilt from outputs", [each for each in mine if each["settings"] == OUTPUTS], "#3a8f4d"),
                ("rebuilt", [each for each in usual if not each["control"]], "#0b6e99"),
                ("pruned", [each for each in usual if each["control"]], "#b5651d"),
            ):
                budgets = [
                    [
                        (100 * (1 - each["macs"] / dense["macs"]), each["accuracy"])
                        for each in mine_
                        if each["less_macs"] == less
                    ]
                    for less in sorted({each["less_macs"] for each in mine_} - {0})
                ]
                if budgets:
                    means = [[statistics.fmean(axis) for axis in zip(*points, strict=True)] for points in budgets]
                    curve.plot(*zip(*means, strict=True), color=colour, lw=1.3)
                    every = [point for points in budgets for point in points]
                    name_ = f"{label}, {EPOCHS[name]:g} epochs"
                    curve.plot(*zip(*every, strict=True), "o", color=colour, ms=5, label=name_)
            curve.axhline(dense["accuracy"], color="0.45", lw=1, ls=":", label="pretrained, dense")
            published = [(each["less_macs"], each["accuracy"]) for each in results["published"] if each["less_macs"]]
            curve.plot(
                *zip(*published, strict=True),
                "s--",
                color="0.55",
                mfc="none",
                ms=4.5,
                lw=1,
                label="ResNet-56 as published, 300 epochs",
            )
            curve.set_xlabel("fewer multiply-accumulates, %", fontsize=9)
            curve.set_ylabel("accuracy, %", fontsize=9)
            curve.set_title(f"{name}, CIFAR-10", fontsize=9, loc="left")
            low, high = curve.get_ylim()
            curve.set_ylim(low - 0.45 * (high - low), high)  # room for the legend
            curve.legend(frameon=False, fontsize=8, loc="lower left")
            arms = {}
            for each in mine:
                if each["less_macs"] == 48:
                    arms.setdefault(each["arm"].removeprefix(f"{name}-48-"), []).append(each["accuracy"])
            ranked = sorted(arms, key=lambda arm: statistics.fmean(arms[arm]))
            for place, arm in enumerate(ranked):
                ways.plot(
                    arms[arm],
                    [place] * len(arms[arm]),
                    "o",
                    ms=5.5,
                    color="#b5651d" if arm.startswith("pruned") else "#0b6e99",
                )
            ways.set_yticks(range(len(ranked)), ranked)
            ways.set_xlabel("accuracy, %", fontsize=9)
            ways.set_title("at 48 % fewer", fontsize=9, loc="left")
            for axes in (curve, ways):
                tidy(axes)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = options(str(__doc__), RESULTS, seeds="in place of each arm's own", epochs="in place of each network's own")
    parser.add_argument("--only", default="*", help="arms by name, a glob")
    given = parser.parse_args(arguments)
    results = read(given.out) if given.draw else run(given.out, given.only, given.seeds, given.epochs)
    return told(results, given.out, table=table, draw=draw, picture=PICTURE)


if __name__ == "__main__":
    raise SystemExit(main())
