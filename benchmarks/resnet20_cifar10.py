"""Accuracy of a pretrained ResNet-20 on CIFAR-10 against the kept fraction, after a short fine-tune.

    SPECTRIM_DATA=FOLDER python benchmarks/resnet20_cifar10.py              # train what is missing, then table and plot
    SPECTRIM_DATA=FOLDER python benchmarks/resnet20_cifar10.py --epochs 100 --out runs/long.json
    python benchmarks/resnet20_cifar10.py --draw                            # table and plot from the file alone

The folder holds the images (``cifar10-*.npz``) and ``weights/cifar10-resnet20.safetensors``. The results are written
after every kept fraction; finished ones are skipped and an interrupted one continues from its checkpoint under
``runs/``. The accuracy after fine-tuning is that of a fresh network that was filled from the written artifact.

``--pilot NAME`` tries a recipe: it trains without the last 5,000 training images, measures on these, and files the
outcome under ``pilots``. The test images take no part in choosing the recipe.
"""

import argparse
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import spectrim as st
from spectrim import measure
from spectrim.zoo.resnet_cifar import resnet20

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "resnet20_cifar10.json"
PICTURE = ROOT / "docs" / "_static" / "resnet20_keep.png"
CHECKPOINTS = ROOT / "runs" / "resnet20_cifar10"
KEEPS = (1.0, 0.5, 0.2, 0.1, 0.05)
HELD_OUT = 5_000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the weights were trained with


ABOUT = (
    "Top-1 accuracy in percent on all 10,000 test images, one seed each, equal budget for every kept fraction; keep = 1 "
    "is the control of the recipe. one_shot: truncated without training, then with batch norms re-estimated on 20 "
    "batches without augmentation. finetuned: a fresh network filled from the written artifact (float16). pilots: tries of a recipe, trained "
    "without the last 5,000 training images and judged by these (which the pretrained weights have seen)."
)


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned; the same for every kept fraction."""

    epochs: float = 1.5
    batch: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.05
    schedule: str = "halving"
    anneal: float = 0.5
    dense_ends: bool = True
    bfloat16: bool = True
    seed: int = 0

    def method(self, keep: float) -> st.FrequencyRegularization:
        """The method at one kept fraction."""
        return st.FrequencyRegularization(keep=keep, schedule=self.schedule)

    @property
    def where(self) -> list[str] | None:
        """Which weights: the first and the last layer, 1,072 numbers of 268,336, may stay dense."""
        return ["!conv1.weight", "!linear.weight"] if self.dense_ends else None


# -- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Pixels (N, 32, 32, 3) as bytes, and their classes (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Images":
        return Images(self.pixels[rows], self.labels[rows])

    def to(self, device: torch.device) -> "Images":
        """A copy on the device."""
        return Images(self.pixels.to(device), self.labels.to(device))


def cifar10(*, train: bool) -> Images:
    """All images of a split in the official order."""
    import realdata  # beside this file; the table and the plot need no data

    return Images(*realdata.cifar10(train=train))


def inputs(pixels: Tensor) -> Tensor:
    """What the network sees: normalised, (N, 3, 32, 32), channels last in memory."""
    mean, std = (pixels.new_tensor(values, dtype=torch.float32) for values in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def augmented(padded: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of images with a border of 4 pixels, half of them mirrored; a pure function of the generator."""
    n, side = len(rows), 32
    down, right = (torch.randint(0, 9, (n, 1), generator=generator) + torch.arange(side) for _ in range(2))
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    right = torch.where(mirrored, right.flip(1), right)
    index = (rows[:, None, None], down[:, :, None], right[:, None, :])
    return padded[tuple(each.to(padded.device) for each in index)]


# -- measuring --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images) -> float:
    """Top-1 in percent, in float32."""
    model.eval()
    right = 0
    for rows in range(0, len(images), 500):
        part = images[rows : rows + 500]
        right += int((model(inputs(part.pixels)).argmax(1) == part.labels).sum())
    return round(100 * right / len(images), 3)


@torch.no_grad()
def reestimate_(model: nn.Module, images: Images) -> None:
    """Give the batch normalisations the mean statistics of 20 batches of training images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for rows in range(0, 20 * 128, 128):
        model(inputs(images.pixels[rows : rows + 128]))
    for norm in norms:
        norm.momentum = 0.1


def pretrained(device: torch.device) -> nn.Module:
    import realdata

    model = resnet20()
    model.load_state_dict(load_file(realdata.folder() / "weights" / "cifar10-resnet20.safetensors"))
    return model.to(device, memory_format=torch.channels_last)


def truncated(keep: float, recipe: Recipe, device: torch.device) -> nn.Module:
    """Cut without any training."""
    model = st.compress_(pretrained(device), recipe.method(keep), where=recipe.where)
    st.anneal_(model, 1.0)
    return model


def artifact(model: nn.Module, images: Images, *, norms: Literal["exact", "folded"]) -> dict[str, Any]:
    """Write the model, fill a fresh network from the file, and measure that one."""
    device = images.pixels.device
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resnet20.safetensors"
        counts = st.save(model, file, norms=norms)
        loaded = st.load_(resnet20(), file).to(device, memory_format=torch.channels_last)
        assert file.stat().st_size == counts.total
    return {"accuracy": accuracy(loaded, images), "bytes": {**asdict(counts), "total": counts.total}}


# -- training ---------------------------------------------------------------------------------------------------------


def finetuned(keep: float, recipe: Recipe, images: Images, checkpoint: Path) -> tuple[nn.Module, "Clock"]:
    """Fine-tune, or go on where the checkpoint stands; the model, and how long all of the training took.

    The order of the images and their crops depend on the seed and the step alone, so an interrupted run ends like an
    uninterrupted one.
    """
    device = images.pixels.device
    torch.manual_seed(recipe.seed)
    model = st.compress_(pretrained(device), recipe.method(keep), where=recipe.where)
    optimizer = optimizer_of(model, recipe)
    total = round(recipe.epochs * (len(images) // recipe.batch))
    state: dict[str, Any] = {"step": 0, "clock": {}}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        print(f"  continues at step {state['step']:,} of {total:,}")
    padded = F.pad(images.pixels, (0, 0, 4, 4, 4, 4))
    clock, first, mean = Clock(**state["clock"]), state["step"], math.nan

    def write() -> None:
        clock.lap()
        content = {
            "step": step + 1,
            "clock": clock.to_json(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, part := checkpoint.with_suffix(".part"))
        part.replace(checkpoint)
        print(f"  step {step + 1:>6,} of {total:,}  loss {mean:.4f}  {clock.wall:6.0f} s", flush=True)

    model.train()
    step = first - 1
    for step, rows in batches(len(images), recipe, first, total):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * pace(step / total, recipe.warmup)
        generator = torch.Generator().manual_seed((recipe.seed << 32) + step)
        x = inputs(augmented(padded, rows, generator))
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
            loss = F.cross_entropy(model(x), images.labels[rows.to(device)]) + st.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        st.anneal_(model, min(1.0, (step + 1) / max(1, round(recipe.anneal * total))))
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 200 == 0 and step + 1 < total:
            write()
    if step + 1 > first:
        write()
    return model, clock


@dataclass
class Clock:
    """Seconds of work, over all the processes that had a part in it."""

    wall: float = 0.0
    processor: float = 0.0

    def __post_init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        """Count until now."""
        now = time.perf_counter(), time.process_time()
        self.wall += now[0] - self._last[0]
        self.processor += now[1] - self._last[1]
        self._last = now

    def to_json(self) -> dict[str, float]:
        """Both, rounded."""
        return {"wall": round(self.wall, 1), "processor": round(self.processor, 1)}


def batches(size: int, recipe: Recipe, first: int, total: int) -> Iterator[tuple[int, Tensor]]:
    """Steps and the rows of their images, from step ``first`` on; every epoch has its own permutation."""
    each = size // recipe.batch
    for epoch in range(first // each, math.ceil(total / each)):
        order = torch.randperm(size, generator=torch.Generator().manual_seed((recipe.seed << 32) + (1 << 31) + epoch))
        for number in range(max(0, first - epoch * each), min(each, total - epoch * each)):
            yield epoch * each + number, order[number * recipe.batch : (number + 1) * recipe.batch]


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def pace(progress: float, warmup: float) -> float:
    """Learning rate as a share of its peak: a linear rise, then half a cosine down to zero."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


# -- the runs ---------------------------------------------------------------------------------------------------------


def entry(
    keep: float, recipe: Recipe, train: Images, test: Images, checkpoint: Path, program: str | None
) -> dict[str, Any]:
    """Everything about one kept fraction; ``program`` is the commit that this process was started from."""
    model, clock = finetuned(keep, recipe, train, checkpoint)
    cut = truncated(keep, recipe, test.pixels.device)
    one_shot = accuracy(cut, test)
    reestimate_(cut, train)
    numbers, dense = measure.numbers(model), measure.numbers(resnet20())
    return {
        "keep": keep,
        "one_shot": {"accuracy": one_shot, "accuracy_with_norms_reestimated": accuracy(cut, test)},
        "finetuned": artifact(model, test, norms="exact"),
        "finetuned_with_norms_folded": artifact(model, test, norms="folded"),
        "numbers": numbers.to_json(),
        "share_of_weights": round(numbers.weights / dense.weights, 5),
        "steps": round(recipe.epochs * (len(train) // recipe.batch)),
        "training_seconds": clock.to_json(),
        "seeds": 1,
        "device": str(test.pixels.device.type),
        "hardware": measure.hardware(),
        "versions": measure.versions(),
        "commit": program,
    }


def commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def pilot(name: str, keep: float, recipe: Recipe, train: Images) -> dict[str, Any]:
    """One try of a recipe, judged by training images that it did not see (the pretrained weights did)."""
    checkpoint = CHECKPOINTS / f"pilot-{name}.pt"
    held_out = train[-HELD_OUT:]
    model, clock = finetuned(keep, recipe, train[:-HELD_OUT], checkpoint)
    return {
        "name": name,
        "keep": keep,
        "accuracy_on_held_out": accuracy(model, held_out),
        "recipe": asdict(recipe),
        "training_seconds": clock.to_json(),
        "device": str(train.pixels.device.type),
    }


def run(out: Path, keeps: list[float], recipe: Recipe, *, try_out: str | None) -> dict[str, Any]:
    """Do what the file lacks; it is written after every kept fraction."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = read(out) or {
        "benchmark": "resnet20_cifar10",
        "about": ABOUT,
        "data": "CIFAR-10",
        "recipe": None,
        "entries": [],
        "pilots": [],
    }
    program = commit()
    train = cifar10(train=True).to(device)
    if try_out is not None:
        for keep in keeps:
            found = pilot(try_out, keep, recipe, train)
            results["pilots"].append(found)
            write(out, results)
            print(
                f"pilot {try_out}: keep {keep:g}, {found['accuracy_on_held_out']:.2f} % in {found['training_seconds']['wall']:.0f} s"
            )
        return results
    if results["recipe"] is None:
        results["recipe"] = asdict(recipe)
    elif results["recipe"] != asdict(recipe):
        raise SystemExit(
            f"{out} holds results of another recipe: {results['recipe']}. Pass the same one or another --out."
        )
    test = cifar10(train=False).to(device)
    if "dense" not in results:
        model = pretrained(device)
        results["dense"] = {
            "accuracy": accuracy(model, test),
            "numbers": measure.numbers(model).to_json(),
            "checkpoint_bytes": measure.state_bytes(model),
        }
        write(out, results)
    for keep in keeps:
        if any(each["keep"] == keep for each in results["entries"]):
            print(f"keep {keep:g}: finished before")
            continue
        print(f"keep {keep:g}")
        results["entries"].append(
            entry(keep, recipe, train, test, CHECKPOINTS / out.stem / f"keep-{keep:g}.pt", program)
        )
        results["entries"].sort(key=lambda each: -each["keep"])
        write(out, results)
    return results


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


# -- for people -------------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """The entries as a Markdown table."""
    dense = results["dense"]
    lines = [
        "| kept | numbers stored | file, bytes | truncated, % | fine-tuned, % | against dense |",
        "| --: | --: | --: | --: | --: | --: |",
        f"| dense | {dense['numbers']['total']:,} | {dense['checkpoint_bytes']:,} | | {dense['accuracy']:.2f} | |",
    ]
    for each in results["entries"]:
        after = each["finetuned"]
        lines.append(
            f"| {each['keep']:g} | {each['numbers']['total']:,} | {after['bytes']['total']:,} | "
            f"{each['one_shot']['accuracy']:.2f} | {after['accuracy']:.2f} | {after['accuracy'] - dense['accuracy']:+.2f} |"
        )
    recipe, first = results["recipe"], results["entries"][0]
    commits = ", ".join(sorted({str(each["commit"])[:12] for each in results["entries"]}))
    return "\n".join(lines) + (
        f"\n\n{recipe['epochs']:g} epochs each, one seed; {first['hardware']['accelerator'] or first['hardware']['cpu']}, "
        f"torch {first['versions']['torch']}, commit {commits}."
    )


def draw(results: dict[str, Any], picture: Path) -> None:
    """Accuracy against the kept fraction: before and after fine-tuning, and the dense network."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    entries, dense = results["entries"], results["dense"]["accuracy"]
    keeps = [each["keep"] for each in entries]
    after = [each["finetuned"]["accuracy"] for each in entries]
    before = [each["one_shot"]["accuracy"] for each in entries]
    figure, axes = plt.subplots(figsize=(7.2, 4.4), dpi=160, layout="constrained")
    axes.axhline(dense, color="0.35", lw=1.2, ls=(0, (5, 3)), zorder=1)
    axes.axhline(10, color="0.7", lw=1, ls=":", zorder=1)
    epochs = results["recipe"]["epochs"]
    axes.plot(
        keeps, after, "o-", color="#0b6e99", lw=2.2, ms=7, label=f"fine-tuned for {epochs:g} epochs, one seed", zorder=4
    )
    axes.plot(keeps, before, "s-", color="#a23b3b", lw=1.4, ms=5, label="truncated, no training", zorder=2)
    for each in entries:
        height, size = each["finetuned"]["accuracy"], each["finetuned"]["bytes"]["total"]
        axes.annotate(
            f"{height:.1f} %\n{size / 1000:.0f} kB", (each["keep"], height), xytext=(-2, -8), textcoords="offset points",
            ha="right", va="top", fontsize=8, color="#0b4f6e", linespacing=1.25,
        )  # fmt: skip
    checkpoint = results["dense"]["checkpoint_bytes"] / 1000
    axes.text(
        1.36,
        dense + 1.2,
        f"dense {dense:.2f} %, {checkpoint:,.0f} kB",
        ha="left",
        va="bottom",
        fontsize=8,
        color="0.25",
    )
    axes.text(1.36, 10.8, "chance", ha="left", va="bottom", fontsize=8, color="0.5")
    axes.set_xscale("log")
    axes.set_xticks(keeps, [f"{keep:g}" for keep in keeps])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_xlim(1.42, min(keeps) / 1.16)
    axes.set_ylim(0, 100)
    axes.set_xlabel("kept fraction of the coefficients")
    axes.set_ylabel("CIFAR-10 test accuracy, %")
    axes.set_title("ResNet-20 on CIFAR-10 under Frequency Regularization", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8.5, loc="center right", bbox_to_anchor=(1, 0.38))
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    usual = Recipe()
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--keep", type=float, nargs="+", default=list(KEEPS))
    parser.add_argument("--pilot", metavar="NAME", help="try a recipe on training images only")
    parser.add_argument("--draw", action="store_true", help="table and plot from the file; nothing is trained")
    for name, value in asdict(usual).items():
        kind: Any = argparse.BooleanOptionalAction if isinstance(value, bool) else None
        options = {"action": kind} if kind else {"type": type(value)}
        parser.add_argument("--" + name.replace("_", "-"), default=value, **options)
    given = parser.parse_args(arguments)
    recipe = replace(usual, **{name: getattr(given, name) for name in asdict(usual)})
    results = read(given.out) if given.draw else run(given.out, given.keep, recipe, try_out=given.pilot)
    if results is None:
        raise SystemExit(f"{given.out} does not exist. Run without --draw first.")
    if results["entries"]:
        print(table(results))
        draw(results, given.picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
