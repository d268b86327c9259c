"""The schema of ``result.json``: everything that a run of ``spectrim compress`` found out, as plain JSON.

The report reads this file, benchmarks read it, people read it. It has no tensors; every number says its unit in its
name or here.
"""

from typing import Any, NotRequired, TypedDict


class ModelInfo(TypedDict):
    """Which network."""

    name: str  # as given on the command line, "lenet5"
    architecture: str  # the class, "LeNet5"
    weights: str | None  # file name of the pretrained weights, if any


class DataInfo(TypedDict):
    """Which images."""

    name: str  # as given on the command line, "digits"
    task: str  # "classification" or "segmentation"
    train: int  # images
    test: int  # images
    classes: int
    input: list[int]  # channels, height, width


class MetricInfo(TypedDict):
    """How quality is measured; all values of it are fractions in [0, 1], higher is better."""

    name: str  # "accuracy" or "dice"


class DenseInfo(TypedDict):
    """The network before."""

    metric: float
    parameters: int  # all learned numbers, biases and norms included
    bytes: int  # of its state_dict, buffers included, as it lies in memory
    macs: int  # multiply-accumulates for one image
    latency_ms: float  # for one image, of as many at a time as the method says; minimum over the paired rounds


class ByteCounts(TypedDict):
    """The artifact's bytes by what they hold; they add up to the size of the file."""

    payload: int  # what the method packs: coefficients
    plain: int  # ordinary tensors: biases, norms, layers left alone
    header: int  # structure, checksum, framing
    total: int


class FormInfo(TypedDict):
    """What was measured of a layer that has several inference forms."""

    site: str
    input: list[int]  # shape
    ms: dict[str, float]  # least milliseconds by the name of the form
    taken: str  # its name
    threads: NotRequired[int]  # that operations could use


class CompressedInfo(TypedDict):
    """The network after, loaded back from the artifact."""

    metric: float
    numbers: int  # stored numbers: kept coefficients and all other learned numbers
    coded_numbers: int  # of these, kept coefficients; templates and transformations are none
    rebuilt_numbers: NotRequired[int]  # of these, templates and transformations, where filters were rebuilt
    bytes: ByteCounts
    macs: int  # in the forms that were taken
    macs_in_two_stages: NotRequired[int]  # with every layer that has rebuilt filters in two stages, if there is one
    macs_without_transforms: NotRequired[
        int
    ]  # of these, those that are no transforms, where pointwise layers have bands
    latency_ms: float
    forms: list[
        FormInfo
    ]  # of layers with several, pointwise ones with bands beside dense; not in files of earlier versions


class LayerInfo(TypedDict):
    """One coded tensor."""

    site: str  # "conv1.weight"
    shape: list[int]
    numel: int
    kept: int


class Curve(TypedDict):
    """What was seen while one phase trained; all lists are equally long, one entry per look."""

    steps: list[int]  # optimizer steps done
    loss: list[float]  # mean since the previous entry
    lr: list[float]


class KeptCurve(TypedDict):
    """Kept counts of the coded tensors over the steps of the compressing phase."""

    steps: list[int]
    counts: dict[str, list[int]]  # site -> as long as steps


class Evaluation(TypedDict):
    """One evaluation on the test images."""

    phase: str  # "dense" or "compressed"
    step: int
    metric: float


class History(TypedDict):
    """How the run went."""

    dense: Curve
    compressed: Curve
    kept: KeptCurve
    evaluations: list[Evaluation]
    repairs: list[dict[str, Any]]  # Repair.to_json(), one for each cut that was repaired
    seconds: dict[str, float]  # phase -> wall time; after a resume, of the last stretch


class Spectrum(TypedDict):
    """Where the energy of one coded tensor lies, in the order in which its coefficients are kept."""

    site: str
    numel: int
    kept: int
    counts: list[int]  # 1 … numel, about equally spaced on a log axis
    dense: list[float]  # share of the energy in the first `count` coefficients of the dense baseline, in [0, 1]
    compressed: list[float]  # the same for the compressed network


class RebuiltInfo(TypedDict):
    """Which filters became transformations of which; empty lists where none did."""

    layers: list[dict[str, Any]]  # Rebuilt.to_json(), one for each layer
    samples: list[dict[str, Any]]  # some filters to look at, see spectrim.report.rebuilt.samples


class Result(TypedDict):
    """The whole file."""

    format: int  # 1
    model: ModelInfo
    data: DataInfo
    method: dict[str, Any]  # "name" and the hyper-parameters
    where: list[str] | None
    recipe: dict[str, dict[str, Any]]  # "dense" and "compressed": the fields of Recipe
    rounds: int  # of cutting and training; they share the recipe's epochs
    start: str  # what the cut network started from: "none" (what was left), "hrankplus" or "all" (fresh weights)
    seed: int
    precision: str  # "no", "bf16" or "fp16"
    dtype: str  # of the payload in the artifact
    metric: MetricInfo
    dense: DenseInfo
    compressed: CompressedInfo
    plans: list[dict[str, Any]]  # Plan.to_json(), in the order in which they were applied
    layers: list[LayerInfo]
    history: History
    spectra: list[Spectrum]
    rebuilt: RebuiltInfo
    files: dict[str, str]  # what lies in the folder beside this file
    versions: dict[str, str]
    hardware: dict[str, Any]
