"""Every method once, and the models they are tried on. A new method adds its line to CASES and inherits every law."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from spectrim import CFDP, FrequencyRegularization, PointwisePruning, ReconstructedFilters
from spectrim.methods import Method


class Residual(nn.Module):
    """Convolutions (plain, grouped, pointwise), norms, a skip connection and a classifier: small, but all there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.mix = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.mix(torch.relu(self.grouped(x)))
        return self.fc(x.mean((2, 3)))


class Plain(Residual):
    """The same with square kernels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(16, 16, 3, padding=1)


@dataclass(frozen=True)
class Case:
    """A method at work: ``method`` drops most, ``lossless`` drops nothing.

    ``touches`` is the coarsest thing that it edits: channels, modules or tensors. ``misfit`` makes a model that its plan does
    not fit, and says how that is refused.
    """

    name: str
    method: Method
    lossless: Method
    build: Callable[[], nn.Module] = Residual
    input_shape: tuple[int, ...] = (4, 3, 12, 12)
    touches: Literal["channels", "modules", "tensors"] = "tensors"
    misfit: tuple[str, Callable[[], nn.Module], str] = (
        "fc",
        lambda: nn.Linear(16, 5),
        r"planned for 'fc\.weight' of shape \(10, 16\), found \(5, 16\)",
    )

    @property
    def codes(self) -> bool:
        """Whether tensors become codes."""
        return self.touches == "tensors"

    @property
    def swaps(self) -> bool:
        """Whether modules are replaced, so that what is finalized has other tensors."""
        return self.touches == "modules"

    def may_precede(self, other: "Case") -> bool:
        """Coarse before fine, and only channels can be cut again."""
        order = ("channels", "modules", "tensors")
        return self.touches == "channels" or order.index(self.touches) < order.index(other.touches)

    @property
    def calibration(self) -> list[Tensor]:
        """What is handed to every method, needed or not."""
        return [self.batch()]

    def model(self) -> nn.Module:
        """A fresh model with the same weights every time, its norms calibrated."""
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = self.build()
            model(torch.randn(self.input_shape))
        return model.eval()

    def batch(self) -> Tensor:
        """The same input every time."""
        return torch.randn(self.input_shape, generator=torch.Generator().manual_seed(3))


SMALLER_MIX = (
    "mix",
    lambda: nn.Conv2d(16, 8, 1),
    r"planned for 'mix' with a weight of shape \(16, 16, 1, 1\), found \(8, 16, 1, 1\)",
)
CASES = [
    Case("cfdp", CFDP(keep=0.3), CFDP(keep=1.0), touches="channels"),
    Case("cfdp, budget", CFDP(target="macs:0.6", round_to=1), CFDP(target="macs:1"), touches="channels"),
    Case("frequency regularization", FrequencyRegularization(keep=0.1), FrequencyRegularization(keep=1.0)),
    Case(
        "frequency regularization, official",
        FrequencyRegularization(keep=0.1, floor=20, compat="fr2023", decay=0.01),
        FrequencyRegularization(keep=1.0, order="linf", norm="backward"),
    ),
    Case(
        "pointwise pruning",
        PointwisePruning(keep=0.4, pays="always"),
        PointwisePruning(keep=1.0, pays="always"),
        touches="modules",
        misfit=SMALLER_MIX,
    ),
    Case(
        "pointwise pruning, learned",
        PointwisePruning(keep=0.4, block=4, order="energy", pays="always", learn=True, rounds=2),
        PointwisePruning(keep=1.0, pays="always", learn=True, strength=0.0),
        touches="modules",
        misfit=SMALLER_MIX,
    ),
    Case(
        "reconstructed filters",
        ReconstructedFilters(keep=0.5, least=4, stages=5, include_pointwise=True),
        ReconstructedFilters(keep=1.0, least=4, include_pointwise=True),
        touches="modules",
        misfit=(
            "mix",
            lambda: nn.Conv2d(16, 8, 1),
            r"planned for 'mix' with sizes 16, 16, kernel=\(1, 1\), found 16, 8, kernel=\(1, 1\)",
        ),
    ),
    Case(
        "reconstructed filters, affine",
        ReconstructedFilters(keep=0.5, least=4, stages=2, family="affine", groups=1, saliency="raw", assign="cosine"),
        ReconstructedFilters(keep=1.0, least=4, family="affine"),
        build=Plain,
        touches="modules",
        misfit=(
            "mix",
            lambda: nn.Conv2d(16, 8, 3, padding=1),
            r"planned for 'mix' with sizes 16, 16, kernel=\(3, 3\), found 16, 8, kernel=\(3, 3\)",
        ),
    ),
]
