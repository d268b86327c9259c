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
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from cifar import ROOT, Clock, Images, Plan, accuracy, cifar10, commit, read, reestimate_, trained_, weights, write
from torch import nn

import spectrim as st
from spectrim import measure
from spectrim.zoo.resnet_cifar import resnet20

RESULTS = ROOT / "benchmarks" / "results" / "resnet20_cifar10.json"
PICTURE = ROOT / "docs" / "_static" / "resnet20_keep.png"
CHECKPOINTS = ROOT / "runs" / "resnet20_cifar10"
KEEPS = (1.0, 0.5, 0.2, 0.1, 0.05)
HELD_OUT = 5_000


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

    def plan(self, size: int) -> Plan:
        """The steps on so many images."""
        return Plan(
            steps=round(self.epochs * (size // self.batch)),
            batch=self.batch,
            lr=self.lr,
            warmup=self.warmup,
            bfloat16=self.bfloat16,
            seed=self.seed,
        )

    def method(self, keep: float) -> st.FrequencyRegularization:
        """The method at one kept fraction."""
        return st.FrequencyRegularization(keep=keep, schedule=self.schedule)

    @property
    def where(self) -> list[str] | None:
        """Which weights: the first and the last layer, 1,072 numbers of 268,336, may stay dense."""
        return ["!conv1.weight", "!linear.weight"] if self.dense_ends else None


# -- measuring --------------------------------------------------------------------------------------------------------


def pretrained(device: torch.device) -> nn.Module:
    model = resnet20()
    model.load_state_dict(weights("cifar10-resnet20"))
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


def finetuned(keep: float, recipe: Recipe, images: Images, checkpoint: Path) -> tuple[nn.Module, Clock]:
    """Fine-tune, or go on where the checkpoint stands; the model, and how long all of the training took."""
    torch.manual_seed(recipe.seed)
    model = st.compress_(pretrained(images.pixels.device), recipe.method(keep), where=recipe.where)
    plan = recipe.plan(len(images))

    def anneal(done: int) -> None:
        st.anneal_(model, min(1.0, done / max(1, round(recipe.anneal * plan.steps))))

    return model, trained_(model, optimizer_of(model, recipe), images, plan, checkpoint, after=anneal)


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=recipe.lr, momentum=recipe.momentum, nesterov=True, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


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
        "steps": recipe.plan(len(train)).steps,
        "training_seconds": clock.to_json(),
        "seeds": 1,
        "device": str(test.pixels.device.type),
        "hardware": measure.hardware(),
        "versions": measure.versions(),
        "commit": program,
    }


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
