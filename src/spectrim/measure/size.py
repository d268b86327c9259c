"""How many numbers a model holds, counted in the three ways that people mean."""

from dataclasses import dataclass

from torch import Tensor, nn

from spectrim.surgery import sites


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers that a file of this model has to hold, told apart by what they are.

    Attributes:
        coded: What the codecs write: the kept coefficients, not the spectra they are cut from.
        dense: Other parameters with two axes or more.
        small: Parameters with at most one axis: biases and the scales and shifts of normalisations.
        buffers: Buffers that the state dict carries (running means, variances, counters); those of the codecs, one
            kept count per tensor, belong to the description of the file and are not counted.
    """

    coded: int
    dense: int
    small: int
    buffers: int

    @property
    def weights(self) -> int:
        """Coded and dense weights: the count that the papers print, without biases and normalisations."""
        return self.coded + self.dense

    @property
    def learned(self) -> int:
        """Everything that training found: all but the buffers."""
        return self.coded + self.dense + self.small

    @property
    def total(self) -> int:
        """Everything."""
        return self.coded + self.dense + self.small + self.buffers

    def to_json(self) -> dict[str, int]:
        """The four counts and their three sums.

        >>> Numbers(coded=33, dense=0, small=8, buffers=0).to_json()["total"]
        41
        """
        return {
            "coded": self.coded,
            "dense": self.dense,
            "small": self.small,
            "buffers": self.buffers,
            "weights": self.weights,
            "learned": self.learned,
            "total": self.total,
        }


def parameters(model: nn.Module) -> int:
    """How many numbers train: the elements of all parameters, a shared one counted once.

    This is the number that libraries print. A coded tensor counts with its whole code; :func:`numbers` counts what of
    it is kept.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def numbers(model: nn.Module) -> Numbers:
    """How many numbers are stored: kept coefficients for coded tensors, every element of everything else.

    A tensor that appears under several names counts once.

    >>> numbers(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
    Numbers(coded=0, dense=36, small=12, buffers=9)
    """
    coded, seen = 0, set[int]()
    for each in sites.coded(model):
        coded += each.codec.numbers()
        seen.update(id(tensor) for tensor in (each.code, *each.codec.buffers()))
    trained = {id(parameter) for parameter in model.parameters()}
    dense = small = buffers = 0
    for tensor in model.state_dict(keep_vars=True).values():
        if not isinstance(tensor, Tensor) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) not in trained:
            buffers += tensor.numel()
        elif tensor.ndim > 1:
            dense += tensor.numel()
        else:
            small += tensor.numel()
    return Numbers(coded=coded, dense=dense, small=small, buffers=buffers)


def state_bytes(model: nn.Module) -> int:
    """Bytes of an ordinary checkpoint: all parameters and stored buffers in the dtypes they have now, no header.

    >>> state_bytes(nn.Linear(3, 2))
    32
    """
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
