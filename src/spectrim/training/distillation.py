"""Learning from what a network said before it was compressed."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def distilled(
    student: Float[Tensor, "batch classes ..."],
    teacher: Float[Tensor, "batch classes ..."],
    labels: Int[Tensor, "batch ..."],
    *,
    share: float = 1.0,
    temperature: float = 5.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """A loss between a network, its teacher and, if wanted, the labels; gradients reach the network alone.

    :math:`(1 - s)\\, H(y, p_S) + s\\, D(p_T^\\tau \\,\\|\\, p_S^\\tau)` with the class probabilities :math:`p^\\tau` of scores
    divided by the temperature: cross-entropy, and the divergence of the network from its teacher. With a share of 1, the paper's
    on small images, no label is read. The divergence is not multiplied by the squared temperature, so that it pulls
    less the higher that is.

    Args:
        student: Scores of the network that trains.
        teacher: Scores of the one that it was.
        labels: One class an image, or one a pixel.
        share: Of the divergence, in [0, 1].
        temperature: Above 0.
        label_smoothing: Of the cross-entropy.

    References:
        Miles and Mikolajczyk 2021, first version of arXiv 2110.12844, where :math:`w = 1 - s`; Hinton et al. 2015 (arXiv 1503.02531).

    >>> import torch
    >>> student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, -2.0]])
    >>> round(float(distilled(student, teacher, torch.tensor([0]), share=0.8)), 7)
    0.0916089
    """
    soft = divergence(student, teacher.detach(), temperature=temperature)
    if share == 1:
        return soft
    hard = F.cross_entropy(student, labels, label_smoothing=label_smoothing)
    return (1 - share) * hard + share * soft


def divergence(
    student: Float[Tensor, "batch classes ..."],
    teacher: Float[Tensor, "batch classes ..."],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """The Kullback-Leibler divergence of the student's classes from the teacher's, in nats: a mean over images (and pixels).

    >>> import torch
    >>> student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, -2.0]])
    >>> round(float(divergence(student, teacher, temperature=5)), 5)
    0.01261
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1).mean()
