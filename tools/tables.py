"""Write the tables of README and docs from the numbers that the benchmarks wrote.

    python tools/tables.py            # rewrite the pages
    python tools/tables.py --check    # exit with 1 if a page is not up to date

A page marks the place with two comments, and everything between them belongs to this program::

    <!-- table: NAME -->
    <!-- /table -->

``NAME`` is a key of :data:`TABLES`. A table whose file does not exist yet says so; no number is typed by hand.
"""

import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)

Render = Callable[[Mapping[str, Any]], str]


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; the first column is text, the others are numbers and stand right.

    >>> print(table(["layer", "ms"], [["conv1", 3.5]]))
    | layer | ms |
    | :-- | --: |
    | conv1 | 3.5 |
    """
    headings = list(headings)
    lines = [headings, [":--", *["--:"] * (len(headings) - 1)], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def training_step(document: Mapping[str, Any]) -> str:
    """What a training step costs, coded against plain."""
    rows = [[row["network"], f"{row['cpu_ms']:,.0f}", f"{row['cpu_ratio']:.2f}"] for row in document["rows"]]
    note = f"\n\n{_machine(document)}; batch {document['batch']}, minimum over {document['rounds']} interleaved rounds."
    return table(["network", "processor ms", "against plain"], rows) + note


def layers(document: Mapping[str, Any]) -> str:
    """What decoding, a forward pass and a training pass cost, per network and kept count, beside frereg and plain."""
    cases = ["frereg", "plain", "1", "0.1", "0.01", "33 numbers"]
    names = {"decode": "decoding", "forward": "forward", "forward_backward": "forward and backward"}
    rows = [
        [f"{network}, {name}", *(_sparing(sums[what].get(case)) for case in cases)]
        for network, sums in document["networks"].items()
        for what, name in names.items()
    ]
    largest = max(document["rows"], key=lambda row: math.prod(row["shape"]))
    decode = largest["decode"]
    rows.append(
        [f"one layer of {tuple(largest['shape'])}, decoding", *(_sparing(decode.get(case, {}).get("cpu_ms"))
                                                                for case in cases)]
    )  # fmt: skip
    for what, name in (("stored", "stored"), ("peak_forward", "peak of a forward pass")):
        bytes_of = largest[f"{what}_bytes_per_weight"]
        rows.append([f"that layer, bytes per weight, {name}", *(f"{bytes_of[case]:.1f}" for case in cases)])
    note = f"\n\n{_machine(document)}; processor milliseconds, minimum over {document['rounds']} interleaved rounds."
    headings = ["", "frereg 0.1.0", "plain", "keep 1", "keep 0.1", "keep 0.01", "33 numbers"]
    return table(headings, rows) + note


def construction(document: Mapping[str, Any]) -> str:
    """What it costs to make the U-Net's layers."""
    sums = document["networks"]["U-Net"]["construction"]
    peer = sums["frereg"]
    figures = [("frereg's layers, random spectra", peer), ("our codecs alone, all coefficients kept", sums["codec"])]
    for name, found in document["unet"].items():
        plain, coding = found["plain"]["cpu_ms"], found["coding"]["cpu_ms"]
        figures += [
            (f"coding an initialised U-Net, {name}", coding),
            (f"initialising and coding it, {name}", plain + coding),
        ]
    rows = [[name, _sparing(figure), f"{peer / figure:,.0f}x"] for name, figure in figures]
    return table(["the U-Net's 23 weights", "processor ms", "faster than frereg"], rows) + f"\n\n{_machine(document)}."


def inference(document: Mapping[str, Any]) -> str:
    """What the inference forms of one network cost."""
    rows = [
        [
            row["form"],
            f"{row['gmacs']:.2f}",
            f"{row['cpu_ms']:,.0f}",
            f"{row['wall_ms']:,.0f}",
            f"{row['speedup']:.1f}x",
        ]
        for row in document["rows"]
    ]
    note = (
        f"\n\n{_machine(document)}; input {' x '.join(map(str, document['input']))}, {document['threads']} thread, "
        f"minimum over {document['rounds']} interleaved rounds. The speed-up is that of wall time."
    )
    return table(["form", "GMAC", "processor ms", "wall ms", "speed-up"], rows) + note


def cut_networks(document: Mapping[str, Any]) -> str:
    """What cut networks cost and how much faster they are, in torch and in onnxruntime."""
    settings = list(dict.fromkeys((row["threads"], row["batch"]) for row in document["rows"]))
    found = {(row["network"], row["cut"], row["threads"], row["batch"]): row for row in document["rows"]}
    dense = {row["network"]: row for row in document["rows"] if row["cut"] == "dense"}
    rows = []
    for network, cut in dict.fromkeys((row["network"], row["cut"]) for row in document["rows"]):
        of = [found[network, cut, *setting] for setting in settings]
        whole = dense[network]
        shares = [f"{of[0][what] / whole[what]:.2f}" for what in ("parameters", "macs")]
        if cut == "dense":
            size = [f"{of[0]['parameters'] / 1e6:.2f} M", f"{of[0]['macs'] / 1e6:,.0f} M"]
            times = [f"{_sparing(row[f'{where}_ms'])} ms" for where in ("torch", "onnxruntime") for row in of]
            rows.append([f"**{network}**, dense", *size, *times])
        else:
            speedups = [f"{row[f'{where}_speedup']:.2f}x" for where in ("torch", "onnxruntime") for row in of]
            rows.append([cut, *shares, *speedups])
    names = [f"{threads} thread{'s' * (threads > 1)}, batch {batch}" for threads, batch in settings]
    headings = [
        "",
        "parameters",
        "MACs",
        *(f"torch, {name}" for name in names),
        *(f"onnxruntime, {name}" for name in names),
    ]
    note = f"\n\n{_machine(document)}; median of the ratios within {document['rounds']} interleaved rounds."
    return table(headings, rows) + note


def by_script(script: str, function: str = "table") -> Render:
    """A function of a benchmark that prints the same table."""

    def render(document: Mapping[str, Any]) -> str:
        spec = importlib.util.spec_from_file_location(script, ROOT / "benchmarks" / f"{script}.py")
        if spec is None or spec.loader is None:
            sys.exit(f"benchmarks/{script}.py cannot be loaded.")
        if str(ROOT / "benchmarks") not in sys.path:  # the scripts import each other by name
            sys.path.append(str(ROOT / "benchmarks"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[script] = module
        spec.loader.exec_module(module)
        return str(getattr(module, function)(document))

    return render


def _sparing(figure: float | None) -> str:
    """Three digits at least, a dash for what was not measured."""
    return "–" if figure is None else f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def _machine(document: Mapping[str, Any]) -> str:
    hardware, versions = document["hardware"], document["versions"]
    return (
        f"{hardware.get('cpu', 'unknown processor')}, torch {versions.get('torch', '?')}, commit {document['commit']}"
    )


TABLES: dict[str, tuple[str, Render]] = {
    "training-step": ("fr_step.json", training_step),
    "layers": ("fr_layers.json", layers),
    "construction": ("fr_layers.json", construction),
    "inference": ("fr_inference.json", inference),
    "lenet5": ("lenet5_mnist.json", by_script("lenet5_mnist")),
    "pointwise-layers": ("pointwise_layers.json", by_script("pointwise_layers")),
    "pointwise-onnx": ("pointwise_onnx.json", by_script("pointwise_onnx")),
    "pointwise-onnx-layers": ("pointwise_onnx_layers.json", by_script("pointwise_onnx_layers")),
    "pointwise-networks": ("pointwise_networks.json", by_script("pointwise_networks")),
    "pointwise-headline": ("pointwise_mobilenetv2.json", by_script("pointwise_mobilenetv2", "headline")),
    "pointwise-mobilenetv2": ("pointwise_mobilenetv2.json", by_script("pointwise_mobilenetv2")),
    "template-layers": ("template_layers.json", by_script("template_layers")),
    "template-speed": ("template_speed.json", by_script("template_speed")),
    "pointwise-frequencies": ("pointwise_frequencies.json", by_script("pointwise_frequencies")),
    "pointwise-cifar10": ("pointwise_cifar10.json", by_script("pointwise_cifar10")),
    "pointwise-cifar10-full": ("pointwise_cifar10_full.json", by_script("pointwise_cifar10_full")),
    "pointwise-learned": ("pointwise_learned.json", by_script("pointwise_learned")),
    "pointwise-triton": ("pointwise_triton.json", by_script("pointwise_triton")),
    "pointwise-taught": ("pointwise_taught.json", by_script("pointwise_taught_judge")),
    "resnet20": ("resnet20_cifar10.json", by_script("resnet20_cifar10")),
    "template-cifar10": ("template_cifar10.json", by_script("template_cifar10")),
    "cfdp-rankings": ("cfdp_cifar10.json", by_script("cfdp_cifar10")),
    "cfdp-coverage": ("cfdp_coverage.json", by_script("cfdp_coverage")),
    "cfdp-score-time": ("cfdp_score_time.json", by_script("cfdp_score_time")),
    "cfdp-speed": ("cfdp_speed.json", cut_networks),
    "cfdp-repair": ("cfdp_repair.json", by_script("cfdp_repair")),
    "cfdp-repair-tuned": ("cfdp_repair.json", by_script("cfdp_repair", "table_tuned")),
    "cfdp-robustness": ("cfdp_robustness.json", by_script("cfdp_robustness")),
}
"""Name of the table: the file under benchmarks/results, and the function that makes Markdown from it."""


def rendered(name: str, *, results: Path = RESULTS) -> str:
    """The Markdown of one table.

    Raises:
        SystemExit: No table has this name.
    """
    if name not in TABLES:
        sys.exit(f"no table is called {name!r}. Known: {', '.join(sorted(TABLES))}.")
    file, render = TABLES[name]
    path = results / file
    if not path.exists():
        return f"*Not measured yet: `benchmarks/results/{file}` does not exist.*"
    return render(json.loads(path.read_text(encoding="utf-8")))


def updated(page: str, *, results: Path = RESULTS) -> str:
    """The text of a page with all of its tables made anew."""
    return MARK.sub(lambda m: f"{m[1]}\n{rendered(m['name'], results=results)}\n\n{m[3]}", page)


def pages() -> list[Path]:
    """Where tables may stand."""
    return [ROOT / "README.md", *sorted(p for p in ROOT.glob("docs/**/*.md") if "_build" not in p.parts)]


def main(arguments: list[str]) -> int:
    """Rewrite, or check with ``--check``; 1 if something was out of date in the check."""
    stale = [page for page in pages() if page.read_text(encoding="utf-8") != updated(page.read_text(encoding="utf-8"))]
    for page in stale:
        print(
            f"{page.relative_to(ROOT)} {'is out of date: run `python tools/tables.py`' if '--check' in arguments else 'rewritten'}"
        )
        if "--check" not in arguments:
            page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
