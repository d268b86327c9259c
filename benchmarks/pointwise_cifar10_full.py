"""The MobileNetV2 of ``pointwise_cifar10.py`` on larger maps, trained to its end on a graphics processor: the same arms, and the regulariser swept.

    export SPECTRIM_DATA=FOLDER                                        # cifar10-*.npz and weights/
    python benchmarks/pointwise_cifar10_full.py --seeds 0 --seconds 120 --budget 330 --out seed-0.json --networks KEPT
    python benchmarks/pointwise_cifar10_full.py --merge seed-*.json    # into the file of results
    python benchmarks/pointwise_cifar10_full.py --time --networks KEPT [--batch 1] [--threads 1] [--rounds 12]
    python benchmarks/pointwise_cifar10_full.py --draw                 # table and plot from the file alone

One process does one seed or several, one after the other; several processes can share a device. What is not in ``--out`` is run, and written
at once; an arm that fails is told with its traceback, and the next one begins. Without ``--seconds`` the dense network is trained for ``--epochs``, and
what is tuned for ``--tuning`` epochs, as many as the dense network takes in ``--tuning-seconds``, or as many as leave time for all arms within ``--budget``.
"""

import argparse
import contextlib
import copy
import math
import statistics
import time
import traceback
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pointwise_cifar10 as small
import torch
from banded_costs import banded_costs
from boxed import Box, Crops, Recipe, Trained, format_of, trained_
from cifar import ROOT, Clock, accuracy, cifar10, commit, options, read, spread, told, write
from pointwise_clock import FUSED
from torch import Tensor, nn

import spectrim as st
from spectrim import measure
from spectrim.nn import cut_offs
from spectrim.nn.component import components

RESULTS = ROOT / "benchmarks" / "results" / "pointwise_cifar10_full.json"
PICTURE = ROOT / "docs" / "_static" / "pointwise_cifar10_full.png"
RUNS = ROOT / "runs" / "pointwise_cifar10_full"
SETTING = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]
BATCH, CALIBRATION = 256, 512
LR, TUNING_LR, CUT_OFFS_LR = 0.05, 0.02, 0.02
DECAY, SMOOTHING, WARMUP = 5e-4, 0.1, 0.05
MOST_EPOCHS, MOST_TUNING = 120.0, 20.0
EPOCHS, TUNING = 60.0, 10.0
BESIDES = 6.0
"""Seconds that an arm is expected to take beside its training, where there is a budget."""
FINE = small.FINE


def _measured(keep: float, **more: Any) -> dict[str, Any]:
    return {"kind": "bands", "keep": keep, "levels": FINE, "score": "measured", "repair": True, **more}


def _learned(keep: float, **more: Any) -> dict[str, Any]:
    return {"kind": "bands", "tune": True, "keep": keep, "levels": FINE, "learn": True, "rounds": 3, **more}


ARMS: Mapping[str, Mapping[str, Any]] = {
    "dense, tuned": {"kind": "dense", "tune": True},
    "measured .5, repaired": _measured(0.5),
    "measured .5, repaired, tuned": _measured(0.5, tune=True),
    "measured .6, repaired": _measured(0.6),
    "measured .6, repaired, tuned": _measured(0.6, tune=True),
    "uniform .5, tuned": {"kind": "bands", "tune": True, "keep": 0.5, "levels": 1},
    "learned .5, tuned": _learned(0.5, score="measured"),
    "width .8, tuned": {"kind": "width", "tune": True, "keep": 0.8},
    "measured .4, repaired, tuned": _measured(0.4, tune=True),
    "24 pixels, tuned": {"kind": "pixels", "tune": True, "side": 24},
    "measured .7, repaired": _measured(0.7),
    "measured .4, repaired": _measured(0.4),
    "output .5": {"kind": "bands", "keep": 0.5, "levels": FINE},
    "energy .5": {"kind": "bands", "keep": 0.5, "levels": FINE, "score": "energy"},
    **{
        f"learned, weight {weight:g}, tuned": _learned(1.0, strength=weight, pays="always")
        for weight in (0.03, 0.1, 0.3, 1.0)
    },
}
"""In the order in which they are run. Those with a weight of the regulariser, which there is the whole cost, under the first seed alone."""

ABOUT = (
    "Top-1 accuracy in percent on all 10,000 test images, after the last step, of a fresh network filled from the written artifact (float16), run in "
    f"float32 with masks. Maps of 32, 32, 16, 8, 8, 4 and 4 pixels. Started from ImageNet weights; SGD, Nesterov momentum 0.9, batch {BATCH}, weight decay "
    f"{DECAY:g} on all but vectors, label smoothing {SMOOTHING:g}, {LR:g} at the peak, {TUNING_LR:g} for what is tuned ('dense, tuned' alike, as many epochs), a linear rise over {WARMUP:.0%} of the "
    f"progress and half a cosine; crops and mirrored images; on a graphics processor with bfloat16 autocast. Learned cut-offs by Adam at {CUT_OFFS_LR:g} in three rounds; 'weight' is that of the "
    f"regulariser, which there is the whole cost. The seed draws the classifier, the order and crops, and the {CALIBRATION} calibration images. One recipe, not tuned on these runs. "
    "Bands: layers where multiplications are saved with the transforms counted, all layers in rows with a weight. width: CFDP's ranking and widths, repaired in closed form. pixels: images made smaller."
)


# -- networks ---------------------------------------------------------------------------------------------------------


def settings_of(arm: str) -> Mapping[str, Any]:
    """Of an arm or the dense network."""
    return {"kind": "dense"} if arm == "dense" else ARMS[arm]


def names_of(seed: int) -> list[str]:
    """The arms of a seed; the regulariser is swept under the first alone."""
    return ["dense", *(name for name in ARMS if seed == 0 or "weight" not in name)]


def artifact(folder: Path, arm: str, seed: int) -> Path:
    """Where the network of a run goes."""
    return folder / small.place(arm, seed).name


def optimizer_of(lr: float, net: nn.Module) -> small.Both:
    """The optimizer of all runs."""
    return small.Both(net, lr, decay=DECAY, cut_offs_lr=CUT_OFFS_LR)


class Annealing:
    """Goes on with learned cut-offs where there are some; from one half of the progress on they stand, and nothing is asked of the device."""

    def __init__(self, net: nn.Module) -> None:
        self._learns, self._last = bool(cut_offs(net)), 0.0

    def __call__(self, net: nn.Module, progress: float) -> None:
        """After a step."""
        if self._learns and (self._last <= 0.5 or progress == 1.0):
            st.anneal_(net, progress)
        self._last = progress


def changed(base: nn.Module, arm: Mapping[str, Any], images: list[Tensor]) -> nn.Module:
    """The trained network as an arm begins; made on the processor where the device is no place for that."""
    device = next(base.parameters()).device
    if device.type == "cpu":
        return small.changed(base, arm, images)
    try:
        return small.changed(base, arm, [each.to(device) for each in images])
    except Exception:  # noqa: BLE001 - whatever it is, the time on the device is short
        print(f"  on {device} this failed, once more on the processor:\n{traceback.format_exc()}", flush=True)
        return small.changed(copy.deepcopy(base).cpu(), arm, images).to(device)


def retained(net: nn.Module) -> dict[str, float]:
    """The share of the multiplications of the banded layers that stays, where there are some."""
    if not list(components(net)):
        return {}
    whole, kept, _ = banded_costs(net, small.empty({"kind": "dense"}, SETTING).eval(), torch.zeros(1, 3, 32, 32))
    return {"retained": round(kept / whole, 4)}


# -- the runs ---------------------------------------------------------------------------------------------------------


class Runs:
    """The runs of one process: what they share, and what is written of each."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.device = torch.device(given.device)
        self.cut: dict[str, nn.Module] = {}
        self.start = time.perf_counter()
        self.folder = (
            RUNS if given.images is None else RUNS / f"first-{given.images}"
        )  # a try leaves nothing to go on from
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts = {"hardware": measure.hardware(), "versions": measure.versions(), "commit": commit()}
        train, test = cifar10(train=True), cifar10(train=False)
        self.train, self.test = train[: given.images], test[: given.images]
        self.on_device = self.train.to(self.device), self.test.to(self.device)
        self.results = read(given.out) or {
            "benchmark": "pointwise_cifar10_full", "about": ABOUT, "data": "CIFAR-10", "entries": [], "times": [],
        }  # fmt: skip
        print(f"data after {self.spent():.0f} s", flush=True)

    def spent(self) -> float:
        """Seconds since the process began its work."""
        return time.perf_counter() - self.start

    def trained(self, net: nn.Module, box: Box, *, lr: float, seed: int) -> Trained:
        """Train a network on the device."""
        with _fast(self.device):
            return trained_(
                net, partial(optimizer_of, lr), self.on_device[0], self.recipe(lr, seed), box, after=Annealing(net)
            )

    def recipe(self, lr: float, seed: int) -> Recipe:
        """How all runs train."""
        return Recipe(
            batch=self.given.batch_size,
            lr=lr,
            warmup=WARMUP,
            smoothing=SMOOTHING,
            bfloat16=bfloat16_on(self.device),
            seed=seed,
        )

    def base(self, seed: int) -> tuple[nn.Module, dict[str, Any]]:
        """The dense network of a seed on the device, and what its training came to; trained if it is not there."""
        place = artifact(self.folder, "base", seed)
        told = place.with_suffix(".json")
        if not (place.exists() and told.exists()):
            net = small.started(seed, self.train, SETTING).to(self.device)
            clock = Clock()
            given = self.given
            box = Box(epochs=None if given.seconds else given.epochs, seconds=given.seconds, most=MOST_EPOCHS)
            done = self.trained(net, box, lr=LR, seed=seed)
            clock.lap()
            st.save(net, place, dtype=torch.float32)
            write(told, {**done.to_json(), "seconds": clock.to_json()})
        net = st.load_(small.empty({"kind": "dense"}, SETTING), place)
        return net.to(self.device).eval(), read(told) or {}

    def tuning(self, seed: int) -> Box:
        """How long what is tuned is trained: as long as the arm of the seed that was first."""
        given = self.given
        found = [each["epochs"] for each in self.results["entries"] if each["seed"] == seed and each.get("tune")]
        if found:
            return Box(epochs=found[0])
        if given.budget:
            return Box(epochs=self.epochs_within(given.budget, seed))
        if given.tuning_seconds:
            return Box(seconds=given.tuning_seconds, most=MOST_TUNING)
        return Box(epochs=given.tuning)

    def epochs_within(self, budget: float, seed: int) -> float:
        """How many epochs all that is tuned may be trained, the sweep left out, so that it ends so many seconds after the process began."""
        base = self.base(seed)[0]
        crops = Crops(self.on_device[0], self.recipe(TUNING_LR, seed))
        plain = self.step_seconds(base, crops, seed)
        try:
            banded = self.step_seconds(self.begun("measured .5, repaired, tuned", seed, base), crops, seed)
        except Exception:  # noqa: BLE001 - the arm itself will tell; others go on
            banded = 3 * plain
        arms = [settings_of(name) for name in names_of(seed) if "weight" not in name]
        an_epoch = sum(banded if arm["kind"] == "bands" else plain for arm in arms if arm.get("tune")) * crops.steps
        left = budget - self.spent() - BESIDES * len(arms)
        epochs = min(max(left / an_epoch, 1.0), MOST_TUNING)
        print(
            f"a step takes {1000 * plain:.1f} ms, with bands {1000 * banded:.1f}: {epochs:.2f} epochs of tuning",
            flush=True,
        )
        return math.floor(2 * epochs) / 2

    def step_seconds(self, net: nn.Module, crops: Crops, seed: int) -> float:
        """Of a network in training."""
        with _fast(self.device):
            return format_of(net, partial(optimizer_of, TUNING_LR), crops, self.recipe(TUNING_LR, seed))[1]

    def begun(self, name: str, seed: int, base: nn.Module) -> nn.Module:
        """The network as an arm begins; cut once for the arms that differ in their tuning alone."""
        if name == "dense":
            return base
        untuned = str((seed, {key: value for key, value in settings_of(name).items() if key != "tune"}))
        if untuned not in self.cut:
            images = small.calibration(self.train, seed, CALIBRATION)
            self.cut[untuned] = changed(base, settings_of(name), images)
        return copy.deepcopy(self.cut[untuned])

    def arm(self, name: str, seed: int, base: nn.Module, about: Mapping[str, Any]) -> None:
        """One run: change, tune, save, test, write."""
        settings, spent = settings_of(name), Clock()
        net = self.begun(name, seed, base)
        planned = time.perf_counter()
        facts: dict[str, Any] = {key: value for key, value in about.items() if key != "seconds"}
        facts["base_epochs"] = facts.pop("epochs", None)
        if name != "dense":
            facts = {"base_epochs": facts["base_epochs"]}
        if settings.get("tune"):
            facts |= self.trained(net, self.tuning(seed), lr=TUNING_LR, seed=seed + 1000).to_json()
        elif name == "dense":
            facts["epochs"] = facts["base_epochs"]
        place = artifact(self.folder, name, seed)
        st.save(net, place, dtype=torch.float16)
        final = st.load_(small.empty(settings, SETTING), place).eval()
        costs = {**small.cost(final, settings, SETTING), **retained(final)}
        layers = len(list(components(final)))
        points = accuracy(final.to(self.device), self.on_device[1])
        spent.lap()
        found = {
            "arm": name, **settings, "seed": seed, "accuracy": points, **costs, "layers": layers, **facts,
            "batch": self.given.batch_size, "seconds": about.get("seconds") if name == "dense" else spent.to_json(), **self.facts,
        }  # fmt: skip
        self.results["entries"].append(found)
        write(self.given.out, self.results)
        print(
            f"seed {seed}, {name}: {points:.2f} %, {costs['macs'] / 1e6:.1f} M, retained {costs.get('retained', 1):.3f}, "
            f"{facts.get('epochs') or 0:.2f} epochs, {spent.wall:.1f} s, of which after planning {time.perf_counter() - planned:.1f} s; {self.spent():.0f} s in all",
            flush=True,
        )
        if self.given.networks is not None and seed == self.given.keep_networks:
            pack(place, self.given.networks)
        if not self.given.leave:
            place.unlink()

    def all(self) -> dict[str, Any]:
        """What the file lacks, seed by seed."""
        for seed in self.given.seeds or [0, 1, 2]:
            done = {each["arm"] for each in self.results["entries"] if each["seed"] == seed}
            missing = [
                name for name in names_of(seed)
                if name not in done and (self.given.only is None or name in ("dense", *self.given.only))
            ]  # fmt: skip
            if not missing:
                continue
            base, about = self.base(seed)
            for name in missing:
                if self.given.stop_after and self.spent() > self.given.stop_after:
                    print(f"seed {seed}, {name}: no time left", flush=True)
                    continue
                try:
                    self.arm(name, seed, base, about)
                except Exception:  # noqa: BLE001 - the next arm may do better, and the device is lent for a while
                    print(f"seed {seed}, {name} failed:\n{traceback.format_exc()}", flush=True)
        return self.results


def bfloat16_on(device: torch.device) -> bool:
    """Whether to train under autocast: on a graphics processor that multiplies so."""
    from spectrim.measure.surroundings import fast_bfloat16

    return device.type == "cuda" and fast_bfloat16(device)


@contextlib.contextmanager
def _fast(device: torch.device) -> Iterator[None]:
    """Inside, convolutions are looked up by a try of each algorithm."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 5
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


# -- networks that are kept -------------------------------------------------------------------------------------------

_PACK, _PACKS = 16 * 10**6, 4
"""Bytes of an archive, and how many there are at most."""


def pack(place: Path, folder: Path) -> None:
    """Put a network into the first archive of a folder that has room for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(_PACKS):
        archive = folder / f"networks-{number}.zip"
        there = archive.stat().st_size if archive.exists() else 0
        if there + place.stat().st_size <= _PACK:
            with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
                opened.write(place, place.name)
            return
    print(f"  no room left for {place.name} in {folder}", flush=True)


def kept(folder: Path, arm: str) -> nn.Module | None:
    """The network of an arm under the first seed, from the archives of a folder or the folder itself; None where it is not there."""
    place = artifact(folder, arm, 0)
    for archive in () if place.exists() else sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            if place.name in opened.namelist():
                place = RUNS / place.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(opened.read(place.name))
                break
    if not place.exists():
        print(f"{arm} is not in {folder}", flush=True)
        return None
    return st.load_(small.empty(settings_of(arm), SETTING), place).eval()


def merged(out: Path, files: Sequence[Path]) -> dict[str, Any]:
    """The entries of several files in one, those of a file behind in place of those before it; times stay."""
    documents = [document for path in (out, *files) if (document := read(path)) is not None]
    if not documents:
        raise SystemExit(f"none of {', '.join(map(str, files))} exists. Run with --seeds first.")
    entries = {(each["seed"], each["arm"]): each for document in documents for each in document["entries"]}
    names = ["dense", *ARMS]
    rows = [entries[key] for key in sorted(entries, key=lambda key: (key[0], names.index(key[1])))]
    times = [each for document in documents for each in document["times"]]
    results = {**documents[-1], "entries": rows, "times": times}
    write(out, results)
    return results


# -- for people -------------------------------------------------------------------------------------------------------


def table(results: Mapping[str, Any]) -> str:
    """Accuracy over the seeds beside operations and, where they were measured, times."""
    settings = sorted({(each["batch"], each["threads"]) for each in results["times"]}, key=lambda each: each[::-1])
    times = {(each["arm"], each["batch"], each["threads"]): each["time"] for each in results["times"]}
    gathered = small.gathered_of(results, ARMS)
    whole, tuned = ({each["seed"]: each for each in gathered.get(name, [])} for name in ("dense", "dense, tuned"))
    heads = [f"time, batch {batch}" + (f", {threads} threads" if threads > 1 else "") for batch, threads in settings]
    titles = ["run", "retained", "MACs without transforms", "MACs with", *heads, "top-1, %", "points", "to dense, tuned", "seeds"]  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "| :-- |" + " --: |" * (len(titles) - 1)]
    for name, found in gathered.items():
        entries = [each for each in found if each["seed"] in whole]
        if not entries:
            continue
        apart = [
            [each["accuracy"] - base[each["seed"]]["accuracy"] for each in entries if each["seed"] in base]
            for base in (whole, tuned)
        ]
        shares = [
            statistics.fmean(each[key] / whole[each["seed"]]["macs"] for each in entries)
            for key in ("macs_without_transforms", "macs")
        ]
        stays = [each["retained"] for each in entries if "retained" in each]
        cells = [
            name,
            f"{statistics.fmean(stays):.3f}" if stays else "",
            *(f"{each:.3f}" for each in shares),
            *(f"{times[name, *each]:.2f}" if (name, *each) in times else "–" for each in settings),
            spread([each["accuracy"] for each in entries]),
            spread(apart[0], "+.2f") if name != "dense" else "",
            spread(apart[1], "+.2f") if name.endswith("tuned") and name != "dense, tuned" and apart[1] else "",
            str(len(entries)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if any(name == FUSED for name, *_ in times):
        took = [f"{times[FUSED, *each]:.2f}" if (FUSED, *each) in times else "–" for each in settings]
        lines.insert(3, f"| {' | '.join([FUSED, '1.000', '1.000', '1.000', *took, '', '', '', ''])} |")
    return "\n".join(lines) + "\n\n" + _note(results)


def _note(results: Mapping[str, Any]) -> str:
    rows, first = results["entries"], results["entries"][0]
    commits = sorted({str(each["commit"])[:12] for each in (*rows, *results["times"])})
    bases, tunings = (
        sorted({round(each[key], 1) for each in some if each.get(key)})
        for key, some in (("base_epochs", rows), ("epochs", [each for each in rows if each.get("tune")]))
    )
    devices = sorted({str(each["hardware"].get("accelerator") or each["hardware"]["cpu"]) for each in rows})
    clocks = sorted({f"{each['hardware']['cpu']}, torch {each['versions']['torch']}" for each in results["times"]})
    return (
        f"Trained on {', '.join(devices)}, torch {first['versions']['torch']}, {_range(bases)} epochs, tuned for {_range(tunings)}; "
        + (f"times on {', '.join(clocks)}, one thread unless said; " if clocks else "")
        + f"commits {', '.join(commits)}; retained: share of the multiplications of the layers with bands; multiplications ({first['macs'] / 1e6:.1f} million) and times relative to the dense network; "
        f"points above it, and tuned rows above the dense network that was tuned as long; mean and deviation over the seeds. {results['about']}"
    )


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{each:g}" for each in (*values[:1], *values[-1:]))
    return " to ".join(ends) or "no"


def draw(results: Mapping[str, Any], picture: Path) -> None:
    """As for the smaller maps."""
    small.draw(results, picture, ARMS)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = options(str(__doc__), RESULTS, seeds="in place of 0 1 2")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), help="in place of all arms")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="of the dense network (default: %(default)s)")
    parser.add_argument("--tuning", type=float, default=TUNING, help="epochs of what is tuned (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="of the dense network's training, in place of --epochs")
    parser.add_argument("--tuning-seconds", type=float, help="of the dense network's tuning, in place of --tuning")
    parser.add_argument(
        "--budget", type=float, help="seconds in which all but the sweep should be done, in place of --tuning"
    )
    parser.add_argument("--stop-after", type=float, help="seconds after which no further arm is begun")
    parser.add_argument("--networks", type=Path, help="the folder that networks of the first seed are kept in")
    parser.add_argument("--keep-networks", type=int, default=0, help="the seed of those (default: %(default)s)")
    parser.add_argument("--leave", action="store_true", help="leave all networks in runs/")
    parser.add_argument("--images", type=int, help="use so many images alone, to try the program")
    parser.add_argument("--batch-size", type=int, default=BATCH, help="of training (default: %(default)s)")
    parser.add_argument("--merge", type=Path, nargs="+", help="put the entries of these files into --out")
    parser.add_argument("--time", action="store_true", help="measure the networks that were kept")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args(arguments)
    if given.merge:
        results = merged(given.out, given.merge)
    elif given.draw:
        results = read(given.out)
    elif given.time:
        folder = given.networks or RUNS
        results = small.clocked(given.out, given.batch, given.rounds, given.threads, partial(kept, folder))
    else:
        torch.set_num_threads(4 if torch.cuda.is_available() else torch.get_num_threads())
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        results = Runs(given).all()
        if not any(each["arm"] == "dense" for each in results["entries"]):
            return 1
        print(table(results))
        return 0
    return told(results, given.out, table=table, draw=draw, picture=given.picture)


if __name__ == "__main__":
    raise SystemExit(main())
