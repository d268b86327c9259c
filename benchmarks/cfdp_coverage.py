"""Which stock networks can be cut, and whether what is left computes what it must; torch-pruning beside it.

    python benchmarks/cfdp_coverage.py                      # what the file lacks
    python benchmarks/cfdp_coverage.py --only torchvision:resnet18

24 networks of torchvision, one or two of each family that it has, and 40 of timm, the small ones; random weights, norms with random
statistics, float64, half of the channels of every group, and only the classifier left alone. Each runs in a process of its own with a limit on
its processor time. The oracle: the cut network's output against that of the whole network in which what reads a removed channel has
zeros for it. torch-pruning (magnitudes, the same half, multiples of 8, classifier ignored) has to leave a network that still runs and is smaller.
A network *hangs* when it uses up the limit on the processor; one that has not had so much of it after half an hour, on a busy machine, is
*unfinished*, and the next run tries again.
"""

import argparse
import collections
import copy
import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

import torch
from rounds import RESULTS, write
from torch import Tensor, nn
from torch.func import functional_call

import spectrim as st
from spectrim.surgery.prune import PruneChannels, silenced

NAME = "cfdp_coverage"
LIMIT = 60
"""Seconds of the processor for planning, cutting and comparing, or for torch-pruning's whole job."""
_WALL = 30 * 60
"""Seconds of the clock for a process, whatever else the machine does."""
_CLASSES = 1000
NETWORKS = {
    "torchvision": [
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "googlenet",
        "inception_v3",
        "maxvit_t",
        "mnasnet1_0",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
        "regnet_x_400mf",
        "regnet_y_400mf",
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        "shufflenet_v2_x1_0",
        "squeezenet1_0",
        "swin_t",
        "swin_v2_t",
        "vgg16_bn",
        "vit_b_16",
        "wide_resnet50_2",
    ],
    "timm": [
        "coat_tiny",
        "convnext_atto",
        "convnextv2_atto",
        "cspresnet50",
        "davit_tiny",
        "deit_tiny_patch16_224",
        "dla34",
        "dpn48b",
        "eca_nfnet_l0",
        "edgenext_xx_small",
        "efficientnet_lite0",
        "efficientvit_b0",
        "ese_vovnet19b_dw",
        "fastvit_t8",
        "gernet_s",
        "ghostnet_100",
        "hrnet_w18_small",
        "inception_next_tiny",
        "lcnet_050",
        "levit_128s",
        "mixer_s32_224",
        "mobilenetv3_small_100",
        "mobileone_s0",
        "mobilevit_xxs",
        "mobilevitv2_050",
        "nfnet_l0",
        "pit_ti_224",
        "poolformer_s12",
        "regnety_002",
        "repvgg_a0",
        "res2net50_26w_4s",
        "resmlp_12_224",
        "resnest14d",
        "rexnet_100",
        "selecsls42b",
        "seresnet18",
        "swin_tiny_patch4_window7_224",
        "visformer_tiny",
        "vit_tiny_patch16_224",
        "xcit_nano_12_p16_224",
    ],
}


def network(library: str, name: str) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and two small images that it takes."""

    def build(**more: Any) -> nn.Module:
        if library == "timm":
            import timm

            return timm.create_model(name, **more).eval()
        import torchvision

        if name in {"googlenet", "inception_v3"}:
            more |= {"init_weights": False}
        return torchvision.models.get_model(name, weights=None, **more).eval()

    sized = {"img_size": 64} if library == "timm" else {"image_size": 64}
    tries: list[tuple[dict[str, Any], int]] = [({}, 64), (sized, 64), ({}, 128), ({}, 224), ({}, 299)]
    for more, side in tries:
        torch.manual_seed(0)
        try:
            model, x = build(**more), torch.randn(2, 3, side, side)
            with torch.no_grad():
                out = model(x)
        except Exception:  # noqa: BLE001, S112 - it does not take this size
            continue
        if isinstance(out, Tensor) and bool(torch.isfinite(out).all()):
            return model, x
    raise SystemExit(f"{library}:{name} takes no size that was tried.")


def lively(model: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """In float64, with norms and scales that tell channels apart and no matrix of zeros, so that a wrong channel shows."""
    model, x = model.double(), x.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (parameter.ndim == 1 and name.endswith("weight")) or "gamma" in name or "layer_scale" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif parameter.ndim == 1 or not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                nn.init.normal_(buffer, std=0.1)
            elif name.endswith("running_var"):
                nn.init.uniform_(buffer, 0.5, 1.5)
    return model, x


@torch.no_grad()
def ours(library: str, name: str) -> dict[str, Any]:
    """What CFDP does to a network."""
    model, x = lively(*network(library, name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _limit()
    start = time.process_time()
    plan = st.plan(model, st.CFDP(keep=0.5), calibration=x)
    cut = plan.apply_(copy.deepcopy(model))
    seconds = time.process_time() - start
    edits = [edit for edit in plan.edits if isinstance(edit, PruneChannels)]
    expected, found = functional_call(model, silenced(model, edits), (x,)), cut(x)
    return {
        "side": x.shape[-1],
        "outcome": "cut" if edits else "whole",
        "groups": len(edits),
        "parameters": [plan.before, sum(parameter.numel() for parameter in cut.parameters())],
        "seconds": round(seconds, 2),
        "difference": float((found - expected).abs().max() / expected.abs().max()),
        "source_untouched": all(torch.equal(value, before[key]) for key, value in model.state_dict().items()),
        "left_alone": dict(collections.Counter(row.reason for row in plan.skipped).most_common()),
    }


def peer(library: str, name: str) -> dict[str, Any]:
    """What torch-pruning does to it."""
    import torch_pruning as tp

    model, x = network(library, name)
    heads = [module for module in model.modules()
             if (isinstance(module, nn.Linear) and module.out_features == _CLASSES)
             or (isinstance(module, nn.Conv2d) and module.out_channels == _CLASSES)]  # fmt: skip
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    before = sum(parameter.numel() for parameter in model.parameters())
    _limit()
    start = time.process_time()
    error = ""
    try:
        pruner = tp.pruner.BasePruner(
            model,
            x,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=heads,
            round_to=8,
        )
        pruner.step()
        seconds = time.process_time() - start
        with torch.no_grad():
            out = model.eval()(x)
        if out.shape != (2, _CLASSES):
            error = f"the output has shape {tuple(out.shape)}"
    except Exception as caught:  # noqa: BLE001 - whatever happens to a user
        seconds = time.process_time() - start
        error = f"{type(caught).__name__}: {(str(caught).splitlines() or [''])[0]}"[:160]
    after = sum(parameter.numel() for parameter in model.parameters())
    changed = shapes != {key: value.shape for key, value in model.state_dict().items()}
    outcome = ("half-cut" if changed else "fails") if error else ("cut" if after < before else "whole")
    return {"outcome": outcome, "parameters": [before, after], "seconds": round(seconds, 2), "error": error or None}


def _limit() -> None:
    """From now on, so much time of the processor."""
    end = int(time.process_time()) + LIMIT
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 5))


def alone(work: Callable[[str, str], dict[str, Any]], library: str, name: str) -> dict[str, Any]:
    """The result of a process of its own, or what became of it."""
    context = multiprocessing.get_context("fork")  # libraries are imported already
    receiver, sender = context.Pipe(duplex=False)

    def inside(to: Connection) -> None:
        try:
            to.send(work(library, name))
        except Exception as error:  # noqa: BLE001 - it goes into the table
            to.send(
                {"outcome": "fails", "error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:160]}
            )

    process = context.Process(target=inside, args=(sender,))
    process.start()
    sender.close()
    if not receiver.poll(_WALL):
        process.kill()
        process.join()
        return {"outcome": "unfinished", "error": f"more than {_WALL} s of the clock", "seconds": None}
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return ended(process.exitcode)
    finally:
        process.kill()
        process.join()


def ended(code: int | None) -> dict[str, Any]:
    """What became of a process that ended without a result."""
    if code == -signal.SIGXCPU:
        return {"outcome": "hangs", "error": f"more than {LIMIT} s of the processor", "seconds": LIMIT}
    return {"outcome": "dies", "error": f"the process ended with code {code}", "seconds": None}


# -- for people -------------------------------------------------------------------------------------------------------


def _summed(rows: list[Mapping[str, Any]], who: str, listed: int) -> str:
    """How many are cut and so on, and how many nobody has tried yet."""
    counts = collections.Counter(row[who]["outcome"] for row in rows if who in row)
    counts += collections.Counter({"not tried yet": listed - counts.total()})
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


def _change(found: Mapping[str, Any]) -> str:
    before, after = found["parameters"]
    return f"{before / 1e6:.2f} → {after / 1e6:.2f} M"


def table(document: Mapping[str, Any]) -> str:
    """A row for each network."""
    rows, listed = document["rows"], document["listed"]
    lines = [
        f"Of {listed} networks, CFDP: {_summed(rows, 'ours', listed)}; torch-pruning: {_summed(rows, 'peer', listed)}.",
        "",
        "| network | side | CFDP | parameters | s | difference | left alone | torch-pruning | parameters | s |",
        "| :-- | --: | :-- | --: | --: | --: | :-- | :-- | --: | --: |",
    ]
    for row in rows:
        mine, other = row.get("ours", {"outcome": "not tried yet", "error": "–"}), row.get("peer")
        cells = [f"`{row['library']}:{row['name']}`", str(mine.get("side", "–")), mine["outcome"]]
        if mine["outcome"] in {"cut", "whole"}:
            left = "; ".join(
                f"{count} x {reason}" if count > 1 else reason for reason, count in _short(mine["left_alone"]).items()
            )
            cells += [_change(mine), f"{mine['seconds']:.1f}", f"{mine['difference']:.0e}", left]
        else:
            cells += ["–", "–", "–", mine["error"]]
        if other is None:
            cells += ["–", "–", "–"]
        elif other["outcome"] in {"cut", "whole"}:
            cells += [other["outcome"], _change(other), f"{other['seconds']:.1f}"]
        else:
            seconds = other.get("seconds")
            cells += [f"{other['outcome']}: {other['error'].replace('|', '/')[:80]}", "–"]
            cells += ["–" if seconds is None else f"{seconds:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    hardware, versions = document["hardware"], document["versions"]
    note = (
        f"{hardware.get('cpu', 'unknown processor')}, torch {versions.get('torch', '?')}, torchvision {versions['torchvision']}, timm "
        f"{versions['timm']}, torch-pruning {versions['torch-pruning']}, commit {document['commit']}; seconds of the processor, at most "
        f"{document['limit']}. *half-cut*: an error, and the shapes of the model are no longer what they were."
    )
    return "\n".join([*lines, "", note])


def _short(reasons: Mapping[str, int]) -> dict[str, int]:
    """Reasons without the names of layers in them, the frequent ones first."""
    found: collections.Counter[str] = collections.Counter()
    for reason, count in reasons.items():
        found[reason.replace("|", "/")] += count
    return dict(found.most_common(4)) | (
        {"…": sum(found.values()) - sum(n for _, n in found.most_common(4))} if len(found) > 4 else {}
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="+", help="networks, as library:name")
    parser.add_argument("--who", nargs="+", choices=["ours", "peer"], default=["ours", "peer"])
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: %(default)s)")
    chosen = parser.parse_args()
    import timm  # noqa: F401 - for the processes to come
    import torch_pruning  # noqa: F401
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    file = RESULTS / f"{NAME}.json"
    rows = (
        {(row["library"], row["name"]): row for row in json.loads(file.read_text("utf-8"))["rows"]}
        if file.exists()
        else {}
    )
    every = [(library, name) for library, names in NETWORKS.items() for name in names]
    wanted = [
        (who, key)
        for who in chosen.who
        for key in every
        if (not chosen.only or ":".join(key) in chosen.only)
        and rows.get(key, {}).get(who, {"outcome": "unfinished"})["outcome"] == "unfinished"
    ]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        running = {pool.submit(alone, ours if who == "ours" else peer, *key): (who, key) for who, key in wanted}
        for done in as_completed(running):
            who, key = running[done]
            rows.setdefault(key, {"library": key[0], "name": key[1]})[who] = done.result()
            print(*key, who, done.result(), flush=True)
            if not chosen.only:
                ordered = [rows[each] for each in every if each in rows]
                write(NAME, ordered, seed=0, limit=LIMIT, listed=len(every))


if __name__ == "__main__":
    main()
