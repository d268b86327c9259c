"""Learning from what a network said before it was compressed."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A loss between a network, its teacher and, if wanted, the labels.

    :math:`w H(y, p_S) + (1 - w) D(p_T^\\tau \\,\\|\\, p_S^\\tau)` with class probabilities :math:`p^\\tau` of scores divided by the
    temperature: a share of cross-entropy, and for the rest the divergence of the network from its teacher. With the weight 0
    no labels are read. The divergence is not multiplied by the squared temperature, so that it counts less the higher that is.

    Attributes:
        weight: The share of the labels, in [0, 1].
        temperature: Above 0; the scores of both networks are divided by it.

    Raises:
        ValueError: A number is out of range.

    References:
        Miles and Mikolajczyk 2021, first version of arXiv 2110.12844; Hinton et al. 2015 (arXiv 1503.02531).

    >>> import torch
    >>> student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, -2.0]])
    >>> round(float(Distillation(weight=0.2)(student, teacher, torch.tensor([0]))), 7)
    0.0916089
    """

    weight: float = 0.0
    temperature: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of the labels must lie in [0, 1], got {self.weight!r}.")
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be above 0, got {self.temperature!r}.")

    def __call__(
        self,
        student: Float[Tensor, "batch classes ..."],
        teacher: Float[Tensor, "batch classes ..."],
        labels: Int[Tensor, "batch ..."],
    ) -> Float[Tensor, ""]:
        """The mean loss; gradients reach the student alone."""
        soft = divergence(student, teacher.detach(), temperature=self.temperature)
        if self.weight == 0:
            return soft
        return self.weight * F.cross_entropy(student, labels) + (1 - self.weight) * soft


def divergence(
    student: Float[Tensor, "batch classes ..."],
    teacher: Float[Tensor, "batch classes ..."],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """The Kullback-Leibler divergence of the student's classes from the teacher's, in nats: a mean over images (and pixels).

    >>> import torch
    >>> student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, -2.0]])
    >>> round(float(divergence(student, teacher, temperature=5)), 7)
    0.0126096
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1).mean()
