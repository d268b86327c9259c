"""VGG-16 and ResNet-56 with filters rebuilt to the published reductions of multiplications: time of the whole network.

    python benchmarks/template_speed.py --network vgg16_bn
    python benchmarks/template_speed.py --network vgg16_bn --batch 8 --threads 2 --only '45.56 % 1'   # others are kept
    python benchmarks/template_speed.py --network vgg16_bn --files runs/onnx --write
    python benchmarks/template_speed.py --network vgg16_bn --files runs/onnx

ResNet-56 has its pretrained weights where ``SPECTRIM_DATA`` has them, VGG-16 random ones; which filters are rebuilt is the
method's own ranking of them. Norms are folded on both sides. Dense and rebuilt network take turns, each in the faster of
the two memory formats; every layer runs in the form that is measured to be the fastest. For onnxruntime there are two files
of each: with all rebuilt layers in two plain stages, and with the form of each layer that is measured to be the fastest there.
They are written first, as that takes long, and those that are not there are not measured.
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
KINDS = ("all", "chosen")
"""Of files: every rebuilt layer in two stages, or where that is faster."""


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
    """Where the files of one network are: dense, and of each kind of the rebuilt ones."""
    names = ["dense", *(f"{what}, {kind}" for kind in KINDS for what in cuts(name))]
    return {what: folder / f"{name} {what.replace(' % ', ' ').replace(',', '')}.onnx" for what in names}


def write_files(name: str, folder: Path, only: Sequence[str]) -> None:
    """Write those files that are missing, of all networks or of some."""
    dense, x = network(name), torch.rand(8, 3, 32, 32)
    for what, file in files_of(name, folder).items():
        cut, _, kind = what.partition(", ")
        if file.exists() or (only and cut not in only):
            continue
        model = copy.deepcopy(dense) if what == "dense" else rebuilt(dense, *cuts(name)[cut], x)
        choices: list[Choice] = []
        if kind == "all":
            for path, layer in list(components(model)):
                assert isinstance(layer, TemplateConv)
                model.set_submodule(path, layer.alternatives().get("two stages", layer.finalized()).eval())
        export_onnx(model, x[:1], file, choices)
        told = [choice.to_json() for choice in choices]
        file.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        print(file, flush=True)


def in_runtime(name: str, folder: Path, x: Tensor, chosen: Any) -> dict[str, dict[str, Any]]:
    """Milliseconds and speedups in onnxruntime, of each network, kind by kind."""
    files = {what: file for what, file in files_of(name, folder).items() if file.exists()}
    clock = session_latency(files, [x.numpy()], rounds=chosen.rounds, threads=chosen.threads)
    found: dict[str, dict[str, Any]] = {}
    for what, file in files.items():
        figures = {"ms": round(clock[what].min_ms, 4), "speedup": round(clock.speedup(what, over="dense"), 3)}
        cut, _, kind = what.partition(", ")
        if what == "dense":
            found[cut] = figures
            continue
        if kind == "chosen":
            figures["layers"] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        found.setdefault(cut, {})[kind] = figures
    return found


def cuts(name: str) -> dict[str, tuple[float, int]]:
    """Reductions and groups of one network, by what they are called."""
    return {f"{cut} % {groups}": (cut, groups) for cut in CUTS[name] for groups in GROUPS}


def measured(name: str, chosen: Any) -> list[dict[str, Any]]:
    """Rows of one network: dense, then its cuts."""
    dense, x = network(name), torch.rand(8, 3, 32, 32)
    setting = {"network": name, "threads": chosen.threads, "batch": chosen.batch}
    if chosen.files is not None:
        found = in_runtime(name, chosen.files, x[: chosen.batch], chosen)
        return [setting | {"what": what, "onnxruntime": {"commit": rounds.COMMIT} | row} for what, row in found.items()]
    models = {
        what: rebuilt(dense, *how, x) for what, how in cuts(name).items() if not chosen.only or what in chosen.only
    }
    found, told = in_torch(dense, models, x[: chosen.batch], chosen)
    rows = [setting | {"what": "dense", "macs": macs(dense, x[:1]), "torch": found["dense"]}]
    for what, model in models.items():
        cut, groups = cuts(name)[what]
        layers = [each for _, each in components(model) if isinstance(each, TemplateConv)]
        taken = [choice.taken for choice in told[what] if choice.site in dict(components(model))]
        row = setting | {"what": what, "cut": cut, "groups": groups}
        row["templates"] = [[each.sizes.outside - len(each.pruned), each.sizes.outside] for each in layers]
        row["torch"] = found[what]
        row["forms"] = {form: taken.count(form) for form in ("dense", "two stages", "two stages, fused")}
        row["layers"] = [choice.to_json() for choice in told[what]]
        rows.append(row)
    for row in rows:
        row["torch"]["commit"] = rounds.COMMIT
        print({key: value for key, value in row.items() if key not in ("layers", "templates")}, flush=True)
    return rows


def main() -> None:
    """Write the files, or measure one network in one setting."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--network", choices=list(CUTS), required=True)
    parser.add_argument("--files", type=Path, help="folder for the files of onnxruntime: measure these, not torch")
    parser.add_argument("--write", action="store_true", help="write these files, and measure nothing")
    parser.add_argument("--only", nargs="*", default=[], help="these alone, as '45.56 %% 1': reduction and groups")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="figures per network (default: %(default)s)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with torch.no_grad():
        if chosen.write:
            chosen.files.mkdir(parents=True, exist_ok=True)
            write_files(chosen.network, chosen.files, chosen.only)
            return
        assert chosen.files is not None or build(), "this benchmark needs the compiled form"
        found = measured(chosen.network, chosen)
    path = rounds.RESULTS / f"{NAME}.json"
    rows = {key(row): row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]} if path.exists() else {}
    for row in found:
        rows[key(row)] = rows.get(key(row), {}) | row
    order = {(name, what): at for at, (name, what) in enumerate((n, w) for n in CUTS for w in ["dense", *cuts(n)])}
    ordered = sorted(rows.values(), key=lambda row: (order[row["network"], row["what"]], row["threads"], row["batch"]))
    rounds.write(NAME, ordered, seed=0, rounds=chosen.rounds)


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a row another one."""
    return tuple(row[name] for name in ("network", "what", "threads", "batch"))


def cell(row: Mapping[str, Any] | None, runtime: str) -> str:
    """Milliseconds of a dense network, how many times faster a rebuilt one is, or that neither was measured."""
    if row is None or runtime not in row:
        return "–"
    found = row[runtime]
    if row["what"] == "dense":
        return f"{found['ms']:.3g} ms"
    if runtime == "torch":
        return f"**{found['speedup']:.2f}**"
    return " / ".join(f"{found[kind]['speedup']:.2f}" if kind in found else "–" for kind in KINDS)


def table(document: Mapping[str, Any]) -> str:
    """How many times faster than dense, in torch and in onnxruntime."""
    rows = {key(row): row for row in document["rows"]}
    settings = sorted({(row["threads"], row["batch"]) for row in rows.values()})
    columns = [
        (runtime, *setting)
        for runtime in ("torch", "onnxruntime")
        for setting in settings
        if any(runtime in row for row in rows.values() if (row["threads"], row["batch"]) == setting)
    ]
    head = [
        "",
        *(f"{runtime}, {threads} thread{'s' * (threads > 1)}, batch {batch}" for runtime, threads, batch in columns),
    ]
    lines = ["| " + " | ".join(head) + " |", "| :-- |" + " --: |" * len(columns)]
    for name, what in dict.fromkeys((row["network"], row["what"]) for row in rows.values()):
        cells = [cell(rows.get((name, what, threads, batch)), runtime) for runtime, threads, batch in columns]
        if what == "dense":
            label = f"**{name}**, dense"
        else:
            cut, groups = cuts(name)[what]
            label = f"−{cut} % MACs, {groups} group{'s' * (groups > 1)}"
        lines.append("| " + " | ".join([label, *cells]) + " |")
    hardware, versions = document["hardware"], document["versions"]
    parts = [row[runtime] for row in rows.values() for runtime in ("torch", "onnxruntime") if runtime in row]
    commits = ", ".join(dict.fromkeys(part["commit"] for part in parts))
    note = (
        f"{hardware['cpu']}, torch {versions['torch']}, onnxruntime {versions.get('onnxruntime', '?')}, commits {commits}; norms folded on both "
        "sides, in torch the faster memory format on both; onnxruntime: all rebuilt layers in two plain stages / each in the form that is faster "
        f"there; median of the ratios within {document['rounds']} interleaved rounds."
    )
    return "\n".join(lines) + "\n\n" + note


if __name__ == "__main__":
    main()
