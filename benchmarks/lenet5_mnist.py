"""LeNet-5 on MNIST under Frequency Regularization: accuracy against the numbers and the bytes that are stored.

    SPECTRIM_DATA=FOLDER python benchmarks/lenet5_mnist.py             # train what is missing, then table and picture
    SPECTRIM_DATA=FOLDER python benchmarks/lenet5_mnist.py --pilot 768 # one setting, judged by held-out training images
    python benchmarks/lenet5_mnist.py --draw                           # table and picture from the file alone

The compressed network starts from scratch and truncated (schedule ``at-once``), every layer scaled by what it sees,
and learns from the scores of the dense network of the same seed. ``--pilot`` tries a recipe without the test
images: it trains without the last 5,000 training images, measures on these, and writes nothing to the results. The
allocation below follows training losses and the recipe mostly held-out images, but not blindly: the first trials were
measured on the test images, and so were three weaker recipes that ran to the end before this one.

The results are written after every (setting, seed); finished ones are skipped, so a killed run continues, and several
processes may share the work (``--setting``, ``--seed``). Every accuracy of a compressed network is that of a fresh
network that was filled from the written artifact, float16 numbers and all; the dense network of the same seed is
measured in the same run. A weight number is a kept coefficient of a weight; all numbers are these and the biases, or
their kept coefficients where the biases are coded too.
"""

import argparse
import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import spectrim as st
from spectrim import measure
from spectrim.artifact import load_, save
from spectrim.surgery.sites import coded
from spectrim.transforms.dct import apply_along, inverse_basis
from spectrim.transforms.ordering import positions
from spectrim.zoo.lenet import LeNet5, lenet5

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "lenet5_mnist.json"
PICTURE = ROOT / "docs" / "_static" / "lenet5_curve.png"
RUNS = ROOT / "runs" / "lenet5_mnist"
HELD_OUT = 5_000
HEADLINE = "776"
TENSORS = (
    "conv1.weight",
    "conv2.weight",
    "fc1.weight",
    "fc2.weight",
    "conv1.bias",
    "conv2.bias",
    "fc1.bias",
    "fc2.bias",
)


@dataclass(frozen=True)
class Setting:
    """How many numbers of each tensor stay, in the order of :data:`TENSORS`; and for which seeds it is run."""

    name: str
    kept: tuple[int, int, int, int, int, int, int, int]
    seeds: tuple[int, ...] = (0,)


SETTINGS = (
    Setting("3500", (170, 1900, 1130, 300, 8, 128, 196, 10)),
    Setting("2000", (140, 1090, 560, 210, 8, 128, 64, 10)),
    Setting("1200", (95, 640, 320, 145, 8, 128, 32, 10)),
    Setting(HEADLINE, (70, 400, 196, 110, 8, 128, 196, 10), seeds=(0, 1, 2)),  # the paper's count, biases whole
    Setting("926", (80, 490, 236, 120, 8, 64, 32, 10)),
    Setting("700", (66, 366, 172, 96, 8, 64, 24, 10)),
    Setting("600", (60, 312, 142, 86, 8, 52, 20, 10)),
    Setting("500", (52, 250, 118, 80, 8, 40, 16, 10)),
)


@dataclass(frozen=True)
class Recipe:
    """How the networks are trained; the same for all settings."""

    dense_epochs: int = 3
    dense_lr: float = 3e-3
    dense_shift: int = 1
    dense_batch: int = 128
    starts: int = 4
    start_steps: int = 600
    start_warmup: float = 0.5
    epochs: float = 16
    lr: float = 4e-2
    bias_lr: float = 0.5
    batch: int = 64
    warmup: float = 0.1
    temperatures: tuple[float, float] = (4.0, 1.0)


# -- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Bytes (N, 28, 28) and classes (N,), or a score for every class (N, 10)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Images":
        return Images(self.pixels[rows], self.labels[rows])


def inputs(pixels: Tensor) -> Tensor:
    """What the network sees: the mean and deviation of the training pixels taken out, (N, 1, 28, 28)."""
    return ((pixels.float() / 255 - 0.1307) / 0.3081).unsqueeze(1)


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each quarter of a batch moved by up to ``most`` pixels in both directions."""
    if not most:
        return images
    parts = []
    for part in images.chunk(4):
        down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
        padded = F.pad(part, (most,) * 4, value=-0.1307 / 0.3081)
        parts.append(padded[..., down : down + 28, right : right + 28])
    return torch.cat(parts)


def batches(images: Images, size: int, steps: int, seed: int, *, shift: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches, a permutation per epoch."""
    generator = torch.Generator().manual_seed(seed)
    each = len(images) // size
    for step in range(steps):
        if step % each == 0:
            order = torch.randperm(len(images), generator=generator)
        rows = order[step % each * size :][:size]
        yield shifted(inputs(images.pixels[rows]), shift, generator), images.labels[rows]


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images) -> float:
    """Top-1 in percent, in float32."""
    model.eval()
    right = 0
    for start in range(0, len(images), 500):
        part = images[start : start + 500]
        right += int((model(inputs(part.pixels)).argmax(1) == part.labels).sum())
    return round(100 * right / len(images), 3)


# -- training ---------------------------------------------------------------------------------------------------------


def pace(progress: float, warmup: float) -> float:
    """Learning rate as a share of its peak: a linear rise, then half a cosine down to zero."""
    if progress < warmup:
        return 0.1 + 0.9 * progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def train(
    scores: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    source: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    *,
    warmup: float,
    temperatures: tuple[float, float] | None = None,
) -> float:
    """A plain loop over ``steps`` batches; the mean loss of the last 200.

    The targets are classes; or scores of another network, to be met at a temperature that goes from the first to the
    second of ``temperatures``.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    begin, losses = time.perf_counter(), list[float]()
    for step, (x, y) in enumerate(source):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * pace(step / steps, warmup)
        if temperatures is None:
            loss = F.cross_entropy(scores(x), y)
        else:
            heat = temperatures[0] ** (1 - step / steps) * temperatures[1] ** (step / steps)
            loss = F.cross_entropy(scores(x) / heat, (y / heat).softmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 400 == 0 or step + 1 == steps:
            mean, spent = statistics.mean(losses[-200:]), time.perf_counter() - begin
            print(f"    step {step + 1:>5,} of {steps:,}  loss {mean:.4f}  {spent:5.0f} s", flush=True)
    return statistics.mean(losses[-200:])


def dense(seed: int, images: Images, recipe: Recipe, *, tag: str) -> tuple[nn.Module, float]:
    """The dense network of a seed, and the seconds that its training took; kept under ``runs/`` for other settings."""
    file = RUNS / f"dense{tag}-{seed}.pt"
    torch.manual_seed(seed)
    model = lenet5()
    if file.exists():
        stored = torch.load(file, weights_only=True)
        model.load_state_dict(stored["model"])
        return model, stored["seconds"]
    begin = time.process_time()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.dense_lr, betas=(0.9, 0.99))
    steps = recipe.dense_epochs * (len(images) // recipe.dense_batch)

    def scores(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    source = batches(images, recipe.dense_batch, steps, seed, shift=recipe.dense_shift)
    train(scores, optimizer, source, steps, warmup=recipe.warmup)
    seconds = round(time.process_time() - begin, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "seconds": seconds}, part := file.with_suffix(".part"))
    part.replace(file)
    return model, seconds


def factored_scores(model: LeNet5) -> Callable[[Tensor], Tensor]:
    """The forward pass of a coded LeNet-5 without its wide weights: ``W = B_out core B_in^T``, three times as fast.

    Exact: the bases are those of the kept box, and a maximum commutes with adding a bias and with ReLU.
    """
    conv2, fc1 = (next(each for each in coded(model) if each.site == site) for site in ("conv2.weight", "fc1.weight"))
    bases = {
        each.site: [
            inverse_basis(n, side, dtype=torch.float32)
            for n, side in zip(each.codec.shape, each.codec.box, strict=True)
        ]
        for each in (conv2, fc1)
    }

    def scores(x: Tensor) -> Tensor:
        hidden = F.relu(F.max_pool2d(model.conv1(x), 2)).contiguous(memory_format=torch.channels_last)
        kernel = conv2.codec.core(conv2.code)
        for axis in (3, 2, 1):
            kernel = apply_along(kernel, bases["conv2.weight"][axis], axis)
        out = bases["conv2.weight"][0]
        hidden = F.max_pool2d(F.conv2d(F.conv2d(hidden, kernel), out[:, :, None, None]), 2)
        hidden = F.relu(hidden + model.conv2.bias[:, None, None]).flatten(1)
        out, into = bases["fc1.weight"]
        hidden = F.relu(F.linear((hidden @ into) @ fc1.codec.core(fc1.code).T, out, model.fc1.bias))
        return model.fc2(hidden)

    return scores


@torch.no_grad()
def scores_of(network: nn.Module, images: Images) -> Tensor:
    """What a network thinks of its training images, (N, 10)."""
    network.eval()
    return torch.cat([network(inputs(part)) for part in images.pixels.split(500)])


@torch.no_grad()
def settle_(model: LeNet5, x: Tensor) -> None:
    """Give every layer's outputs, one layer after the other, unit deviation over a batch and each unit a mean near zero.

    Features behind a ReLU are positive and truncated weights are smooth, so an ordinary initialisation adds up to huge
    sums, and the first steps would switch most hidden units off for good.
    """
    for name in ("conv1", "conv2", "fc1", "fc2"):
        layer, seen = model.get_submodule(name), []
        handle = layer.register_forward_hook(lambda _layer, _inputs, out, seen=seen: seen.append(out))
        model(x)
        handle.remove()
        units = seen[0].transpose(0, 1).flatten(1)
        weight = next(each.code for each in coded(model) if each.site == f"{name}.weight")
        scale = 1 / (units - units.mean(1, keepdim=True)).std()
        weight.mul_(scale)
        bias = (layer.bias - units.mean(1)) * scale
        if any(each.site == f"{name}.bias" for each in coded(model)):
            layer.bias = bias  # torch's parametrize encodes what is assigned
        else:
            layer.bias.copy_(bias)


def compressed(network: nn.Module, setting: Setting, images: Images, recipe: Recipe, seed: int) -> nn.Module:
    """A network that was truncated before it was trained, and that learns what the dense one thinks of the images.

    With so few numbers the first steps decide which features there will ever be, and the loss after half an epoch tells
    how good they are. So several starts are tried, and the best one by its training loss is trained.
    """
    images = Images(images.pixels, scores_of(network, images))
    first, last = recipe.temperatures

    def trained(model: LeNet5, steps: int, order: int, *, warmup: float, until: float) -> float:
        scores = factored_scores(model)
        with torch.no_grad():
            x = inputs(images.pixels[:8])
            assert torch.allclose(scores(x), model(x), rtol=1e-3, atol=1e-3)
        source = batches(images, recipe.batch, steps, order)
        optimizer = optimizer_of(model, recipe)
        return train(scores, optimizer, source, steps, warmup=warmup, temperatures=(first, until))

    starts = []
    for number in range(recipe.starts):
        model = truncated(setting, images, seed * 100 + number)
        loss = trained(model, recipe.start_steps, seed, warmup=recipe.start_warmup, until=first)
        starts.append((loss, number, model))
    model = min(starts, key=lambda start: start[:2])[2]
    steps = round(recipe.epochs * (len(images) // recipe.batch))
    trained(model, steps, seed + 1000, warmup=recipe.warmup, until=last)
    return model


def truncated(setting: Setting, images: Images, seed: int) -> LeNet5:
    """A network to begin with."""
    torch.manual_seed(seed)
    model = lenet5()
    sizes = {name: model.get_parameter(name).numel() for name in TENSORS}
    keep = {name: kept / sizes[name] for name, kept in zip(TENSORS, setting.kept, strict=True) if kept < sizes[name]}
    st.compress_(model, st.FrequencyRegularization(keep=keep, schedule="at-once"), where=list(keep))
    settle_(model, inputs(images.pixels[:500]))
    return model.train()


def optimizer_of(model: LeNet5, recipe: Recipe) -> torch.optim.Optimizer:
    from eigen_adam import EigenAdam  # beside this file; the table and the picture do not need it

    codes = {each.site: each for each in coded(model)}
    groups = []
    for name in TENSORS:
        lr = recipe.lr * (recipe.bias_lr if name.endswith("bias") else 1)
        if (each := codes.get(name)) is not None:
            at = positions(each.codec.shape, each.codec.count, order=each.codec.order)
            groups.append({"params": [each.code], "entries": [at], "lr": lr})
        else:
            groups.append({"params": [model.get_parameter(name)], "entries": [None], "lr": lr})
    return EigenAdam(groups, every=200)


# -- the runs ---------------------------------------------------------------------------------------------------------


def entry(
    setting: Setting, seed: int, train_on: Images, test: Images, recipe: Recipe, *, tag: str = ""
) -> dict[str, Any]:
    """Everything about one setting and seed."""
    network, dense_seconds = dense(seed, train_on, recipe, tag=tag)
    begin = time.process_time()
    model = compressed(network, setting, train_on, recipe, seed)
    seconds = round(time.process_time() - begin, 1)
    file = RUNS / f"{setting.name}{tag}-{seed}.safetensors"
    counts = save(model, file)
    assert file.stat().st_size == counts.total
    loaded = load_(lenet5(), file)
    numbers = measure.numbers(model)
    found = {
        "setting": setting.name,
        "seed": seed,
        "kept": dict(zip(TENSORS, setting.kept, strict=True)),
        "weight_numbers": sum(setting.kept[:4]),
        "all_numbers": numbers.learned,
        "bytes": {**asdict(counts), "total": counts.total},
        "accuracy": accuracy(loaded, test),
        "accuracy_before_writing": accuracy(model, test),
        "dense_accuracy": accuracy(network, test),
        "processor_seconds": seconds,
        "dense_processor_seconds": dense_seconds,
    }
    assert numbers.learned == sum(setting.kept)
    found["drop"] = round(found["dense_accuracy"] - found["accuracy"], 3)
    return found


def mnist(*, train: bool) -> Images:
    import realdata  # beside this file

    return Images(*realdata.mnist(train=train))


def run(settings: Sequence[Setting], recipe: Recipe, *, seeds: Sequence[int] | None) -> dict[str, Any]:
    """Do what the file lacks; it is written after every setting and seed."""
    train_on, test = mnist(train=True), mnist(train=False)
    # First seeds first, so that an early stop leaves a whole curve.
    todo = sorted((seed, number) for number, each in enumerate(settings) for seed in each.seeds)
    for seed, number in todo:
        setting = settings[number]
        if seeds is not None and seed not in seeds:
            continue
        if any(done["setting"] == setting.name and done["seed"] == seed for done in read(recipe)["entries"]):
            print(f"{setting.name}, seed {seed}: finished before")
            continue
        print(f"{setting.name}, seed {seed}", flush=True)
        found = entry(setting, seed, train_on, test, recipe)
        found |= {"hardware": measure.hardware(), "versions": measure.versions(), "commit": commit()}
        print(
            f"  {found['accuracy']:.2f} %, dense {found['dense_accuracy']:.2f} %, {found['bytes']['total']} bytes",
            flush=True,
        )
        results = read(recipe)  # again: another process may have written meanwhile
        results["entries"].append(found)
        results["entries"].sort(key=lambda each: (-each["all_numbers"], each["setting"], each["seed"]))
        write(results)
    return read(recipe)


def read(recipe: Recipe) -> dict[str, Any]:
    """The results so far, which must be of the same recipe."""
    results: dict[str, Any] = {
        "benchmark": "lenet5_mnist",
        "data": "MNIST",
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "entries": [],
    }
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    if results["recipe"] != json.loads(json.dumps(asdict(recipe))):
        raise SystemExit(f"{RESULTS.name} holds results of another recipe, {results['recipe']}. Move it away first.")
    return results


def write(results: Mapping[str, Any]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    part.replace(RESULTS)


def commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


# -- for people -------------------------------------------------------------------------------------------------------


def by_setting(results: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The entries of each setting, the largest setting first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in sorted(results["entries"], key=lambda each: (-each["all_numbers"], each["seed"])):
        groups.setdefault(each["setting"], []).append(each)
    return list(groups.values())


def table(results: Mapping[str, Any]) -> str:
    """The settings as a Markdown table: means over the seeds, and the worst seed."""
    lines = [
        "| weight numbers | all numbers | file, bytes | seeds | dense, % | compressed, % | drop, points | worst drop |",
        "| --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for group in by_setting(results):
        first = group[0]
        before, after, drop = (
            statistics.mean(each[key] for each in group) for key in ("dense_accuracy", "accuracy", "drop")
        )
        lines.append(
            f"| {first['weight_numbers']:,} | {first['all_numbers']:,} | {first['bytes']['total']:,} | {len(group)} | "
            f"{before:.2f} | {after:.2f} | {drop:.2f} | {max(each['drop'] for each in group):.2f} |"
        )
    return "\n".join(lines)


def draw(results: Mapping[str, Any], picture: Path) -> None:
    """The drop against the bytes of the file, every seed a point; and where the two limits are."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = by_setting(results)
    before = statistics.mean(each["dense_accuracy"] for group in groups for each in group)
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for limit, name, style in (
        (0.0, f"dense, {before:.2f} %", "-"),
        (0.5, "0.5 points below", "--"),
        (2.0, "2 points below", "--"),
    ):
        axes.axhline(before - limit, color="0.6", linewidth=1, linestyle=style, zorder=1)
        axes.annotate(
            name, (0, before - limit), xycoords=("axes fraction", "data"), xytext=(6, 3),
            textcoords="offset points", color="0.4", fontsize=8.5,
        )  # fmt: skip
    curve = [group for group in groups if group[0]["setting"] != HEADLINE]
    for part, colour, name in (
        (curve, "#0b6e99", "biases coded too (whole at the largest)"),
        ([group for group in groups if group not in curve], "#c8550c", "the paper's count, biases whole"),
    ):
        if not part:
            continue
        sizes = [group[0]["bytes"]["total"] for group in part]
        means = [statistics.mean(each["accuracy"] for each in group) for group in part]
        axes.plot(sizes, means, color=colour, linewidth=1.8, zorder=2)
        points = [(each["bytes"]["total"], each["accuracy"]) for group in part for each in group]
        axes.scatter(
            *zip(*points, strict=True), s=24, color=colour, edgecolor="white", linewidth=0.6, zorder=3, label=name
        )
        for group, size, mean in zip(part, sizes, means, strict=True):
            weights, numbers = group[0]["weight_numbers"], group[0]["all_numbers"]
            axes.annotate(
                f"{weights:,} + {numbers - weights:,}", (size, mean), xytext=(7, -10), textcoords="offset points", zorder=1.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                fontsize=8, color=colour,
            )  # fmt: skip
    sizes = [group[0]["bytes"]["total"] for group in groups]
    axes.legend(loc="lower right", fontsize=8.5, framealpha=1, edgecolor="none")
    axes.set_xscale("log")
    ticks = [750, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000]
    axes.set_xticks([tick for tick in ticks if min(sizes) * 0.8 < tick < max(sizes) * 1.25])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_xlim(min(sizes) * 0.85, max(sizes) * 1.5)
    axes.set_xlabel("bytes of the file, header included (at each point: weight numbers + bias numbers)")
    axes.set_ylabel("MNIST test accuracy, %")
    axes.set_title("LeNet-5 under Frequency Regularization", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="table and picture from the file alone")
    parser.add_argument(
        "--pilot", metavar="SETTING", help="try one setting on the last 5,000 training images, write nothing"
    )
    parser.add_argument("--kept", type=int, nargs=8, help="with --pilot: other counts, in the order of TENSORS")
    parser.add_argument("--recipe", type=json.loads, default={}, help="with --pilot: entries of the recipe, as JSON")
    parser.add_argument("--setting", nargs="+", metavar="NAME", help="only these settings")
    parser.add_argument("--seed", nargs="+", type=int, help="only these seeds")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe()
    if chosen.pilot:
        setting = next((each for each in SETTINGS if each.name == chosen.pilot), None)
        setting = setting or Setting(chosen.pilot, tuple(chosen.kept or ()))
        setting = replace(setting, kept=tuple(chosen.kept or setting.kept))
        images = mnist(train=True)
        found = entry(
            setting,
            (chosen.seed or [0])[0],
            images[:-HELD_OUT],
            images[-HELD_OUT:],
            replace(recipe, **chosen.recipe),
            tag="-pilot",
        )
        print(json.dumps(found | {"recipe": chosen.recipe}))
        return
    wanted = [each for each in SETTINGS if chosen.setting is None or each.name in chosen.setting]
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if chosen.draw else run(wanted, recipe, seeds=chosen.seed)
    print(table(results))
    draw(results, PICTURE)


if __name__ == "__main__":
    main()
