"""VGG-16 and ResNet-56 with filters rebuilt to the published reductions of multiplications: time of the whole network.

    python benchmarks/template_speed.py --network vgg16_bn --files runs/onnx --write
    python benchmarks/template_speed.py --network vgg16_bn --files runs/onnx --threads 1   # other rows are kept

ResNet-56 has its pretrained weights where ``SPECTRIM_DATA`` has them, VGG-16 random ones; which filters are rebuilt is the
method's own ranking of them. Norms are folded on both sides. Dense and rebuilt network take turns, each in the faster of
the two memory formats; every layer runs in the form that is measured to be the fastest. In onnxruntime all rebuilt layers
are in two plain stages; its files are written first, as that takes long, and those that are not there are not measured.
"""

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cifar
import rounds
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import spectrim as st
from spectrim.kernels import build
from spectrim.measure import macs, paired_latency, session_latency
from spectrim.measure.choice import Choice
from spectrim.nn import components
from spectrim.nn.reconstructed import TemplateConv
from spectrim.training.exporting import export_onnx
from spectrim.zoo.resnet_cifar import resnet56
from spectrim.zoo.vgg import vgg16_bn

NAME = "template_speed"
CUTS = {"vgg16_bn": (45.56, 61.38, 80.89), "resnet56": (35.91, 48.27, 56.36)}
"""Published reductions of the multiplications, per cent."""
GROUPS = (1, 2)
BATCHES = (1, 8)


def network(name: str) -> nn.Module:
    """The dense network, norms folded."""
    torch.manual_seed(0)
    if name == "vgg16_bn":
        model = vgg16_bn().eval()
        layers = list(model.features)
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                model.features[place] = fuse_conv_bn_eval(layer, layers[place + 1])
                model.features[place + 1] = nn.Identity()
        return model
    model = resnet56().eval()
    try:
        model.load_state_dict(cifar.weights("cifar10-resnet56"))
    except SystemExit:
        print("random weights")
    for module in [model, *model.modules()]:
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
            if isinstance(getattr(module, norm, None), nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return model


class Last(nn.Module):
    """A network in the channels_last format, with the format of its input changed first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.model(x.contiguous(memory_format=torch.channels_last))


def rebuilt(dense: nn.Module, cut: float, groups: int, x: Tensor) -> nn.Module:
    """The network with its filters rebuilt, before it is finalized."""
    model = copy.deepcopy(dense)
    st.compress_(model, st.ReconstructedFilters(target=f"macs:{1 - cut / 100:.4f}", groups=groups), calibration=x[:1])
    st.anneal_(model, 1.0)
    return model.requires_grad_(False).eval()


def in_torch(
    dense: nn.Module, models: Mapping[str, nn.Module], x: Tensor, chosen: Any
) -> tuple[dict[str, Any], dict[str, list[Choice]]]:
    """Milliseconds and speedups of each network, in its faster format over that of the dense one."""
    cases: dict[str, nn.Module] = {"dense": dense, "dense, last": Last(copy.deepcopy(dense))}
    told: dict[str, list[Choice]] = {}
    for what, model in models.items():
        for last in (False, True):
            own, choices = copy.deepcopy(model), []
            example = x.contiguous(memory_format=torch.channels_last) if last else x
            st.finalize_(own.to(memory_format=torch.channels_last) if last else own, example=example, choices=choices)
            torch.testing.assert_close(own(example), model(x), rtol=1e-2, atol=1e-2)
            name = f"{what}, last" if last else what
            cases[name], told[name] = Last(own) if last else own, choices
    clock = paired_latency(cases, x, rounds=chosen.rounds, threads=chosen.threads)
    best = {name: min((name, f"{name}, last"), key=lambda each: clock[each].min_ms) for name in ("dense", *models)}
    found = {
        name: {
            "ms": round(clock[best[name]].min_ms, 4),
            "speedup": round(clock.speedup(best[name], over=best["dense"]), 3),
            "layout": "channels_last" if best[name].endswith("last") else "contiguous",
        }
        for name in ("dense", *models)
    }
    return found, {name: told[best[name]] for name in models}


def files_of(name: str, folder: Path) -> dict[str, Path]:
    """Where the files of one network are, dense and rebuilt."""
    return {what: folder / f"{name} {what.replace(' % ', ' ')}.onnx" for what in ("dense", *cuts(name))}


def write_files(name: str, folder: Path, only: Sequence[str]) -> None:
    """Write those files that are missing, of all cuts or of some."""
    dense, x = network(name), torch.rand(8, 3, 32, 32)
    for what, file in files_of(name, folder).items():
        if file.exists() or (only and what not in only):
            continue
        model = copy.deepcopy(dense) if what == "dense" else rebuilt(dense, *cuts(name)[what], x)
        for path, layer in list(components(model)):
            assert isinstance(layer, TemplateConv)
            model.set_submodule(path, layer.alternatives().get("two stages", layer.finalized()).eval())
        export_onnx(model, x[:1], file)


def in_runtime(files: Mapping[str, Path], x: Tensor, chosen: Any) -> dict[str, Any]:
    """Milliseconds and speedups in onnxruntime."""
    clock = session_latency(files, [x.numpy()], rounds=chosen.rounds, threads=chosen.threads)
    return {
        name: {"ms": round(clock[name].min_ms, 4), "speedup": round(clock.speedup(name, over="dense"), 3)}
        for name in files
    }


def cuts(name: str) -> dict[str, tuple[float, int]]:
    """Reductions and groups of one network, by what they are called."""
    return {f"{cut} % {groups}": (cut, groups) for cut in CUTS[name] for groups in GROUPS}


def measured(name: str, folder: Path, chosen: Any) -> list[dict[str, Any]]:
    """Rows of one network: dense, then its cuts."""
    files = {what: file for what, file in files_of(name, folder).items() if file.exists()}
    dense, x = network(name), torch.rand(8, 3, 32, 32)
    models = {what: rebuilt(dense, *how, x) for what, how in cuts(name).items()}
    facts: dict[str, dict[str, Any]] = {"dense": {"macs": macs(dense, x[:1])}}
    for what, (cut, groups) in cuts(name).items():
        layers = [each for _, each in components(models[what]) if isinstance(each, TemplateConv)]
        counts = [[each.sizes.outside - len(each.pruned), each.sizes.outside] for each in layers]
        facts[what] = {"cut": cut, "groups": groups, "templates": counts}
    rows = []
    for part in (x[:batch] for batch in BATCHES):
        found, told = in_torch(dense, models, part, chosen)
        runtime = in_runtime(files, part, chosen) if len(files) > 1 else {}
        for what, known in facts.items():
            row = {"network": name, "threads": chosen.threads, "batch": len(part), **known}
            row |= {"torch": found[what], "onnxruntime": runtime.get(what)}
            if what != "dense":
                taken = [choice.taken for choice in told[what]]
                row["forms"] = {form: taken.count(form) for form in ("dense", "two stages", "two stages, fused")}
                row["layers"] = [choice.to_json() for choice in told[what]]
            rows.append(row)
            print({key: value for key, value in row.items() if key not in ("layers", "templates")}, flush=True)
    return rows


def main() -> None:
    """Write the files, or measure one network with one number of threads."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--network", choices=list(CUTS), required=True)
    parser.add_argument("--files", type=Path, required=True, help="folder for the files of onnxruntime")
    parser.add_argument("--write", action="store_true", help="write these files, and measure nothing")
    parser.add_argument("--only", nargs="*", default=[], help="with --write: of these alone, as 'dense' '45.56 %% 1'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="figures per network (default: %(default)s)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.files.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        if chosen.write:
            write_files(chosen.network, chosen.files, chosen.only)
            return
        assert build(), "this benchmark needs the compiled form"
        found = measured(chosen.network, chosen.files, chosen)
    path = rounds.RESULTS / f"{NAME}.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    kept = [row for row in kept if (row["threads"], row["network"]) != (chosen.threads, chosen.network)]
    order = list(CUTS)
    rows = sorted(kept + found, key=lambda row: (order.index(row["network"]), row["threads"]))
    rounds.write(NAME, rows, seed=0, rounds=chosen.rounds)


def cell(row: Mapping[str, Any], what: str) -> str:
    """A number of onnxruntime, or that there is none."""
    found = row["onnxruntime"]
    return "–" if found is None else f"{found['ms']:.3g} ms" if what == "ms" else f"{found['speedup']:.2f}"


def table(document: Mapping[str, Any]) -> str:
    """How many times faster than dense, in torch and in onnxruntime."""
    rows = document["rows"]
    settings = sorted({(row["threads"], row["batch"]) for row in rows})
    names = [f"{threads} thread{'s' * (threads > 1)}, batch {batch}" for threads, batch in settings]
    head = ["", *(f"torch, {name}" for name in names), *(f"onnxruntime, {name}" for name in names)]
    lines = ["| " + " | ".join(head) + " |", "| :-- |" + " --: |" * (len(head) - 1)]
    for network_, cut, groups in dict.fromkeys((row["network"], row.get("cut"), row.get("groups")) for row in rows):
        own = {
            (row["threads"], row["batch"]): row
            for row in rows
            if (row["network"], row.get("cut"), row.get("groups")) == (network_, cut, groups)
        }
        if cut is None:
            cells = [f"{own[each]['torch']['ms']:.3g} ms" for each in settings]
            cells += [cell(own[each], "ms") for each in settings]
            lines.append(f"| **{network_}**, dense | " + " | ".join(cells) + " |")
            continue
        cells = [f"**{own[each]['torch']['speedup']:.2f}**" for each in settings]
        cells += [
            " / ".join(f"{own[each]['onnxruntime'][kind]['speedup']:.2f}" for kind in ("all", "chosen"))
            for each in settings
        ]
        lines.append(f"| −{cut} % MACs, {groups} group{'s' * (groups > 1)} | " + " | ".join(cells) + " |")
    hardware, versions = document["hardware"], document["versions"]
    note = (
        f"{hardware['cpu']}, torch {versions['torch']}, onnxruntime {versions.get('onnxruntime', '?')}, commit {document['commit']}; norms folded on both "
        f"sides, in torch the faster memory format on both; in onnxruntime all rebuilt layers in two plain stages; median of the ratios within "
        f"{document['rounds']} interleaved rounds."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
