"""A MobileNetV2 for CIFAR-10, its pointwise convolutions cut in six ways: accuracy against operations and measured time, three seeds.

    SPECTRIM_DATA=FOLDER python benchmarks/pointwise_cifar10.py [--seeds 0 1 2]     # train what is missing, then the table
    python benchmarks/pointwise_cifar10.py --time [--batch 1] [--rounds 12]         # the clock, on the networks of the first seed
    python benchmarks/pointwise_cifar10.py --draw                                   # table and plot from the file alone

The network is torchvision's at its full width, whose first convolution does not stride: maps of 32, 16, 8, 4 and 2 pixels. It starts
from the ImageNet weights and is trained on CIFAR-10; then each arm is planned on training images and, where it says so, trained on
for the same number of steps. Results are written after every run, finished runs are skipped, an interrupted one continues from its
checkpoint. Networks go to runs/pointwise_cifar10.
"""

import copy
import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rounds
import torch
from banded_costs import banded_costs
from cifar import (
    ROOT,
    STD,
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
    write,
)
from pointwise_clock import FUSED, finalized
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

import spectrim as st
from spectrim import measure
from spectrim.kernels import build
from spectrim.nn import cut_offs
from spectrim.nn.component import components
from spectrim.nn.pointwise import BandedPointwiseConv2d

RESULTS = ROOT / "benchmarks" / "results" / "pointwise_cifar10.json"
PICTURE = ROOT / "docs" / "_static" / "pointwise_cifar10.png"
RUNS = ROOT / "runs" / "pointwise_cifar10"
SETTING = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
EPOCHS, LR = 2.0, 0.05
TUNING, TUNING_LR, CUT_OFFS_LR = 0.4, 0.01, 0.03
BATCH, CALIBRATION, FINE = 128, 256, 64
FLOOR = -12.0
"""Points below the dense network, beyond which a run is not drawn but told at the lower edge."""
ARMS: Mapping[str, Mapping[str, Any]] = {
    "dense, tuned": {"kind": "dense", "tune": True},
    "uniform .5, tuned": {"kind": "bands", "tune": True, "keep": 0.5, "levels": 1},
    "learned .5, tuned": {"kind": "bands", "tune": True, "keep": 0.5, "levels": FINE, "learn": True, "rounds": 2},
    "width .85, tuned": {"kind": "width", "tune": True, "keep": 0.85},
    "24 pixels, tuned": {"kind": "pixels", "tune": True, "side": 24},
    "uniform .5": {"kind": "bands", "keep": 0.5, "levels": 1},
    "output .5": {"kind": "bands", "keep": 0.5, "levels": FINE},
    "energy .5": {"kind": "bands", "keep": 0.5, "levels": FINE, "score": "energy"},
    "measured .5, repaired": {"kind": "bands", "keep": 0.5, "levels": FINE, "score": "measured", "repair": True},
    "measured .5, repaired, tuned": {
        "kind": "bands",
        "tune": True,
        "keep": 0.5,
        "levels": FINE,
        "score": "measured",
        "repair": True,
    },
    "measured .7, repaired": {"kind": "bands", "keep": 0.7, "levels": FINE, "score": "measured", "repair": True},
    "measured .6, repaired": {"kind": "bands", "keep": 0.6, "levels": FINE, "score": "measured", "repair": True},
    "output .7": {"kind": "bands", "keep": 0.7, "levels": FINE},
    "energy .7": {"kind": "bands", "keep": 0.7, "levels": FINE, "score": "energy"},
    "24 pixels": {"kind": "pixels", "side": 24},
    "learned .35, tuned": {"kind": "bands", "tune": True, "keep": 0.35, "levels": FINE, "learn": True, "rounds": 2},
    "width .7, tuned": {"kind": "width", "tune": True, "keep": 0.7},
    "uniform .35, tuned": {"kind": "bands", "tune": True, "keep": 0.35, "levels": 1},
    "output .35": {"kind": "bands", "keep": 0.35, "levels": FINE},
    "energy .35": {"kind": "bands", "keep": 0.35, "levels": FINE, "score": "energy"},
    "width .85": {"kind": "width", "keep": 0.85},
    "28 pixels, tuned": {"kind": "pixels", "tune": True, "side": 28},
    "28 pixels": {"kind": "pixels", "side": 28},
    **{
        f"learned, weight {weight:g}, tuned": {
            "kind": "bands",
            "tune": True,
            "keep": 1.0,
            "levels": FINE,
            "learn": True,
            "rounds": 2,
            "strength": weight,
            "pays": "always",
        }
        for weight in (0.03, 0.1, 0.3, 1.0)
    },
}
"""In the order in which they are run. ``tune``: trained on; the others see no label. With a weight, the regulariser is that times the whole cost."""
FIRST = 12
"""So many arms are run for all seeds before the others."""

ABOUT = (
    "Top-1 accuracy in percent on all 10,000 test images, after the last step, of a fresh network filled from the written artifact. The network starts from "
    f"ImageNet weights and is trained for {EPOCHS:g} epochs, which is short; tuned: trained on for {TUNING:g} epochs, 'dense, tuned' alike. SGD, Nesterov momentum 0.9, batch {BATCH}, "
    f"weight decay 1e-4 on all but vectors, {LR:g} and {TUNING_LR:g} at the peak, a warm start over 5 % of the steps and half a cosine; crops and mirrored "
    f"images, float32; learned cut-offs by Adam at {CUT_OFFS_LR:g}. The seed draws the classifier, the order and crops, and the {CALIBRATION} calibration images. One recipe, not "
    "tuned on these runs. Bands: layers where multiplications are saved with the transforms counted. width: CFDP's ranking and widths, repaired in closed form. pixels: images made smaller."
)


class Smaller(nn.Module):
    """A network that sees smaller images."""

    def __init__(self, net: nn.Module, side: int) -> None:
        super().__init__()
        self.net, self.side = net, side

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images of any size."""
        return self.net(F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True))


class Both(torch.optim.SGD):
    """SGD for the weights, whose rate a plan sets, and Adam for the cut-offs, whose rate stays."""

    def __init__(self, model: nn.Module, lr: float, *, decay: float = 1e-4, cut_offs_lr: float = CUT_OFFS_LR) -> None:
        thetas = cut_offs(model)
        known = {id(each) for each in thetas}
        others = [each for each in model.parameters() if id(each) not in known]
        groups = [
            {"params": [each for each in others if each.ndim > 1], "weight_decay": decay},
            {"params": [each for each in others if each.ndim <= 1], "weight_decay": 0.0},
        ]
        super().__init__(groups, lr=lr, momentum=0.9, nesterov=True)
        self.adam = torch.optim.Adam(thetas, lr=cut_offs_lr) if thetas else None

    def step(self, closure: Any = None) -> Any:
        """Both."""
        if self.adam is not None:
            self.adam.step()
            self.adam.zero_grad()
        return super().step(closure)


# -- networks ---------------------------------------------------------------------------------------------------------


def empty(arm: Mapping[str, Any], setting: Sequence[Sequence[int]] = SETTING) -> nn.Module:
    """What the artifact of an arm is loaded into; the setting is torchvision's, of which the last column strides."""
    import torchvision

    net = torchvision.models.mobilenet_v2(inverted_residual_setting=setting, num_classes=10, dropout=0.0)
    net.features[0][0].stride = (1, 1)
    return Smaller(net, arm["side"]) if arm["kind"] == "pixels" else net


def started(seed: int, train: Images, setting: Sequence[Sequence[int]] = SETTING) -> nn.Module:
    """The network with ImageNet's weights and a fresh classifier."""
    from realdata import mobilenet_v2_weights

    torch.manual_seed(seed)
    net = empty({"kind": "dense"}, setting)
    known = {name: value for name, value in mobilenet_v2_weights().items() if not name.startswith("classifier")}
    net.load_state_dict(known, strict=False)
    with torch.no_grad():  # those weights were trained on images between -1 and 1
        net.features[0][0].weight *= 2 * torch.tensor(STD)[None, :, None, None]
    unfold_(net, torch.cat(calibration(train, seed)))
    return net


@torch.no_grad()
def unfold_(net: nn.Module, images: Tensor) -> None:
    """Give every norm the statistics of its input, and the scale and shift that undo them: those weights come with their norms folded.

    What the network computes stays; but now it computes the same with the statistics of a batch, and can be trained.
    """
    seen: dict[nn.BatchNorm2d, Tensor] = {}
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(lambda norm, given: seen.update({norm: given[0]})) for norm in norms]
    net.eval()(images)
    for hook in hooks:
        hook.remove()
    for norm, x in seen.items():
        old = norm.weight / (norm.running_var + norm.eps).sqrt()
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        norm.bias += old * (mean - norm.running_mean)
        norm.weight.copy_(old * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def calibration(train: Images, seed: int, count: int = CALIBRATION) -> list[Tensor]:
    """Training images, as they are."""
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:count]
    return [*inputs(train.pixels[rows]).contiguous().split(64)]


def changed(base: nn.Module, arm: Mapping[str, Any], images: list[Tensor]) -> nn.Module:
    """The trained network as an arm begins."""
    net = copy.deepcopy(base).eval()
    if arm["kind"] == "pixels":
        return Smaller(net, arm["side"])
    if arm["kind"] == "width":
        plan = st.plan(net, st.CFDP(keep=arm["keep"]), calibration=images)
        st.repair_(plan.apply_(net), base, plan=plan, calibration=images, images=sum(map(len, images)))
    if arm["kind"] == "bands":
        settings = {name: value for name, value in arm.items() if name not in ("kind", "tune", "repair")}
        plan = st.plan(net, st.PointwisePruning(**{"score": "output"} | settings), calibration=images)
        plan.apply_(net)
        if arm.get("repair"):
            st.repair_(net, base, plan=plan, calibration=images, images=sum(map(len, images)))
    return net


def cost(net: nn.Module, arm: Mapping[str, Any], setting: Sequence[Sequence[int]] = SETTING) -> dict[str, int]:
    """Multiply-accumulates of one image, without the transforms and with them."""
    images = torch.zeros(1, 3, 32, 32)
    if arm["kind"] != "bands":
        return dict.fromkeys(("macs_without_transforms", "macs"), measure.macs(net, images))
    dense = empty(arm, setting).eval()
    total = measure.macs(dense, images)
    whole, kept, transforms = banded_costs(net, dense, images)
    return {"macs_without_transforms": total - whole + kept, "macs": total - whole + kept + transforms}


def folded(net: nn.Module) -> nn.Module:
    """The network with every norm in the convolution before it."""
    for module in [net, *net.modules()]:
        for (name, conv), (following, norm) in itertools.pairwise(list(module.named_children())):
            if not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d | BandedPointwiseConv2d):
                continue
            banded, plain = conv, conv
            if isinstance(conv, BandedPointwiseConv2d):
                plain = nn.Conv2d(conv.geometry.in_channels, conv.geometry.out_channels, 1, bias=False)
                plain.weight = conv.weight
            fused = fuse_conv_bn_eval(plain.eval(), norm.eval())
            if isinstance(banded, BandedPointwiseConv2d):
                sizes = banded.geometry
                layer = BandedPointwiseConv2d(
                    sizes.in_channels, sizes.out_channels, sizes.block, order=sizes.order, kept=banded.kept.tolist()
                )
                layer.weight, layer.bias = fused.weight, fused.bias
                fused = layer
            module.set_submodule(name, fused)
            module.set_submodule(following, nn.Identity())
    return net.eval().requires_grad_(requires_grad=False)


# -- the runs ---------------------------------------------------------------------------------------------------------


def place(name: str, seed: int, ending: str = "safetensors") -> Path:
    """Where the network of a run goes."""
    RUNS.mkdir(parents=True, exist_ok=True)
    return RUNS / f"{name.replace(', ', '-').replace(' ', '-').replace('.', '0')}-{seed}.{ending}"


def trained(net: nn.Module, train: Images, *, epochs: float, lr: float, seed: int, checkpoint: Path) -> Clock:
    """Train a network where it stands."""
    steps = round(epochs * (len(train) // BATCH))
    plan = Plan(steps=steps, batch=BATCH, lr=lr, warmup=0.05, bfloat16=False, seed=seed)
    banded = bool(cut_offs(net))
    # The transforms copy less where channels come first.
    bands = any(isinstance(each, BandedPointwiseConv2d) for _, each in components(net))
    net.to(memory_format=torch.contiguous_format if bands else torch.channels_last)

    def after(done: int) -> None:
        if banded:
            st.anneal_(net, done / steps)

    return trained_(net, Both(net, lr), train, plan, checkpoint, after=after)


def tested(net: nn.Module, test: Images) -> float:
    """Top-1 of the form in which the network runs; the argument stays as it is."""
    return accuracy(st.finalize_(copy.deepcopy(net).eval()).to(memory_format=torch.channels_last), test)


def base_of(seed: int, train: Images) -> tuple[nn.Module, dict[str, float]]:
    """The dense network of a seed, and the seconds that its training took; trained if it is not there."""
    if not place("base", seed).exists():
        net = started(seed, train)
        clock = trained(net, train, epochs=EPOCHS, lr=LR, seed=seed, checkpoint=place("base", seed, "ckpt"))
        write(place("base", seed, "json"), clock.to_json())
        st.save(net, place("base", seed), dtype=torch.float32)
    net = st.load_(empty({"kind": "dense"}), place("base", seed))
    return net.eval(), read(place("base", seed, "json")) or {}


def run(out: Path, seeds: list[int], only: list[str] | None) -> dict[str, Any]:
    """Do what the file lacks, seed by seed; it is written after every run."""
    build()
    results = read(out) or {
        "benchmark": "pointwise_cifar10",
        "about": ABOUT,
        "data": "CIFAR-10",
        "entries": [],
        "times": [],
    }
    program = commit()
    train, test = cifar10(train=True), cifar10(train=False)
    facts = {"hardware": measure.hardware(), "versions": measure.versions(), "commit": program}
    names = [name for name in ARMS if only is None or name in only]
    for part, seed in itertools.product(([*ARMS][:FIRST], [*ARMS][FIRST:]), seeds):
        arms = [("dense", {"kind": "dense"}), *((name, ARMS[name]) for name in part if name in names)]
        done = {each["arm"] for each in results["entries"] if each["seed"] == seed}
        if all(name in done for name, _ in arms):
            continue
        base, seconds = base_of(seed, train)
        images = calibration(train, seed)
        for name, arm in arms:
            if name in done:
                continue
            spent = Clock()
            net = base if name == "dense" else changed(base, arm, images)
            if arm.get("tune"):
                checkpoint = place(name, seed, "ckpt")
                trained(net, train, epochs=TUNING, lr=TUNING_LR, seed=seed + 1000, checkpoint=checkpoint)
            st.save(net, place(name, seed), dtype=torch.float32)
            final = st.load_(empty(arm), place(name, seed)).eval()
            spent.lap()
            found = {
                "arm": name, **arm, "seed": seed, "accuracy": tested(final, test), **cost(final, arm),
                "layers": len(list(components(final))), "seconds": seconds if name == "dense" else spent.to_json(), **facts,
            }  # fmt: skip
            results = read(out) or results  # the clock may have written meanwhile
            results["entries"].append(found)
            write(out, results)
            print(
                f"seed {seed}, {name}: {found['accuracy']:.2f} %, {found['macs'] / 1e6:.2f} M, {spent.wall:.0f} s",
                flush=True,
            )
    return results


def kept(arm: str) -> nn.Module:
    """The network of an arm under the first seed."""
    settings = {"kind": "dense"} | ARMS.get(arm, {})
    return st.load_(empty(settings), place(arm, 0)).eval()


def clocked(
    out: Path, batch: int, count: int, threads: int, kept: Callable[[str], nn.Module | None] = kept
) -> dict[str, Any]:
    """The networks of the first seed in turns, as they run: norms folded, finalized for the batch, peers with their depthwise convolutions fused too.

    Args:
        out: Where times are written, and which arms there are.
        batch: Images at a time.
        count: Rounds.
        threads: Of one operation.
        kept: The network of an arm; None where it was not kept.
    """
    assert build(), "this benchmark needs the compiled form"
    torch.set_num_threads(threads)
    results = read(out)
    if results is None:
        raise SystemExit(f"{out} does not exist. Train first.")
    x = inputs(cifar10(train=False).pixels[:batch]).contiguous(memory_format=torch.channels_last)
    nets: dict[str, nn.Module] = {}
    for each in (each for each in results["entries"] if each["seed"] == 0):
        if (found := kept(each["arm"])) is None:
            continue
        net = folded(found).to(memory_format=torch.channels_last)
        nets[each["arm"]] = net if each["kind"] == "dense" else finalized(net, x)
    nets[FUSED] = finalized(nets["dense"], x)
    with torch.inference_mode():
        took = rounds.times({name: lambda net=net: net(x) for name, net in nets.items()}, rounds=count, fill_ms=100)
    setting = {"batch": batch, "threads": threads}
    facts = {"commit": commit(), "hardware": measure.hardware(), "versions": measure.versions()}
    results = read(out) or results
    results["times"] = [each for each in results["times"] if {key: each[key] for key in setting} != setting]
    for name, each in took.items():
        ratio = min(each.wall) / min(took["dense"].wall)
        results["times"].append({"arm": name, **setting, **each.to_json(), "time": ratio, "rounds": count, **facts})
        print(f"{name:<24} {min(each.wall):8.3f} ms  {ratio:.3f}", flush=True)
    write(out, results)
    return results


# -- for people -------------------------------------------------------------------------------------------------------


def gathered_of(results: Mapping[str, Any], arms: Iterable[str] = ARMS) -> dict[str, list[dict[str, Any]]]:
    """The entries of each arm that has some, the dense network's first."""
    names = ["dense", *arms]
    found = {name: [each for each in results["entries"] if each["arm"] == name] for name in names}
    return {name: entries for name, entries in found.items() if entries}


def table(results: Mapping[str, Any]) -> str:
    """Accuracy over the seeds beside operations and, where they were measured, times."""
    settings = sorted({(each["batch"], each["threads"]) for each in results["times"]})
    times = {(each["arm"], each["batch"], each["threads"]): each["time"] for each in results["times"]}
    gathered = gathered_of(results)
    dense = {each["seed"]: each for each in gathered["dense"]}
    heads = [f"time, batch {batch}" + (f", {threads} threads" if threads > 1 else "") for batch, threads in settings]
    lines = [
        "| "
        + " | ".join(["run", "MACs without transforms", "MACs with", *heads, "top-1, %", "points", "seeds"])
        + " |",
        "| :-- |" + " --: |" * (len(heads) + 5),
    ]
    for name, entries in gathered.items():
        accuracies = [each["accuracy"] for each in entries]
        apart = [each["accuracy"] - dense[each["seed"]]["accuracy"] for each in entries]
        macs = [
            statistics.fmean(each[key] / dense[each["seed"]]["macs"] for each in entries)
            for key in ("macs_without_transforms", "macs")
        ]
        cells = [
            name,
            *(f"{each:.3f}" for each in macs),
            *(f"{times[name, *each]:.2f}" if (name, *each) in times else "–" for each in settings),
            spread(accuracies),
            spread(apart, "+.2f") if name != "dense" else "",
            str(len(entries)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if any(name == FUSED for name, *_ in times):
        took = [f"{times[FUSED, *each]:.2f}" if (FUSED, *each) in times else "–" for each in settings]
        lines.insert(3, "| " + " | ".join([FUSED, "1.000", "1.000", *took, "", "", ""]) + " |")
    first = results["entries"][0]
    commits = sorted({str(each["commit"])[:12] for each in (*results["entries"], *results["times"])})
    note = (
        f"{first['hardware']['cpu']}, torch {first['versions']['torch']}, commits {', '.join(commits)}; multiplications ({first['macs'] / 1e6:.1f} million) and "
        f"times relative to the dense network before its tuning; mean and deviation over the seeds, times of the first one's networks, one thread unless said. {results['about']}"
    )
    return "\n".join(lines) + "\n\n" + note


def draw(results: Mapping[str, Any], picture: Path, arms: Iterable[str] = ARMS) -> None:
    """Accuracy against operations, and against the time of the largest batch that was timed; every seed a dot; far below, in words."""
    batch = max((each["batch"] for each in results["times"] if each["threads"] == 1), default=None)
    times = {each["arm"]: each["time"] for each in results["times"] if (each["batch"], each["threads"]) == (batch, 1)}
    gathered = gathered_of(results, arms)
    dense = {each["seed"]: each for each in gathered["dense"]}
    families = {
        "dense": ("0.35", "s"), "energy": ("0.6", "o"), "output": ("#7a9e3a", "o"), "uniform": ("#0b6e99", "o"),
        "learned": ("#7b3294", "o"), "measured": ("#d95f02", "o"), "width": ("#b5651d", "^"), "pixels": ("#c2a000", "v"),
    }  # fmt: skip
    with plotted(picture, 1, 2 if times else 1, figsize=(9.4 if times else 5, 4)) as grid:
        for axes, clock in zip(grid[0], (False, True), strict=False):
            points = {
                name: [
                    (times[name] if clock else each["macs"] / dense[each["seed"]]["macs"], each["accuracy"] - dense[each["seed"]]["accuracy"])
                    for each in entries
                ]
                for name, entries in gathered.items() if name in times or not clock
            }  # fmt: skip
            for family, (colour, mark) in families.items():
                for tuned in (False, True):
                    arms_of = [name for name in points if family in name and name.endswith("tuned") == tuned]
                    if dots := sorted(dot for name in arms_of for dot in points[name]):
                        fill = colour if tuned else "none"
                        axes.plot(
                            *zip(*dots, strict=True), mark, color=colour, mfc=fill, ms=5, lw=0,
                            label=f"{family}, tuned" if tuned else family,
                        )  # fmt: skip
            axes.axhline(0, color="0.8", lw=0.8, zorder=0)
            floor = min(y for dots in points.values() for _, y in dots if y > FLOOR) - 0.6
            axes.set_ylim(bottom=floor)
            below = [(name, dots) for name, dots in points.items() if min(y for _, y in dots) < floor]
            for line, (name, dots) in enumerate(below):
                x, y = (statistics.fmean(each) for each in zip(*dots, strict=True))
                axes.annotate(
                    f"{name}: {y:+.0f} ↓", (x, floor), (0, 3 + 9 * line), textcoords="offset points", fontsize=7, ha="center", color="0.4",
                )  # fmt: skip
            axes.set_xlabel(
                f"time of {batch} images, dense = 1" if clock else "multiplications with transforms, dense = 1",
                fontsize=9,
            )
            axes.set_ylabel("points above the dense network", fontsize=9)
            tidy(axes)
        grid[0][0].legend(frameon=False, fontsize=7, ncols=2)
        grid[0][0].set_title("MobileNetV2 on CIFAR-10", fontsize=9, loc="left")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = options(str(__doc__), RESULTS, seeds="in place of 0 1 2")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), help="in place of all arms")
    parser.add_argument("--time", action="store_true", help="measure the networks that are there")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args(arguments)
    if given.draw:
        results = read(given.out)
    elif given.time:
        results = clocked(given.out, given.batch, given.rounds, given.threads)
    else:
        results = run(given.out, given.seeds or [0, 1, 2], given.only)
    return told(results, given.out, table=table, draw=draw, picture=given.picture)


if __name__ == "__main__":
    raise SystemExit(main())
