"""Which channels belong together, read off one forward pass: every operation that runs passes labels on.

Each axis of each weight starts with atoms of its own. An operation that is understood unites what has to go together: the
channels that a convolution writes, the norm scales, an addition joins and the next layer reads. One that is not
understood locks the channels it sees, with its name as the reason, and nothing else. So no model is refused as a whole,
and there is no graph to search.
"""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spectrim.surgery.operations import rule_for
from spectrim.surgery.trace import Call, Trace, tensors


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    """While active, follows atoms through every operation.

    Args:
        trace: Gets the labels of everything that is computed.

    Attributes:
        read: The identities of the weights that an operation took.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.read: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, then say what it does to the labels."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.read.update(id(t) for t in tensors((args, kwargs)) if self.trace.is_weight(t))
        call = Call(str(func).removeprefix("aten.").split(".", 1)[0], args, kwargs, out)
        labels = rule_for(func, call.name)(self.trace, call)
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        several = labels if isinstance(labels, list) else [labels or ()] + [()] * (len(outs) - 1)
        for tensor, each in zip(outs, several, strict=False):
            if not self.trace.is_weight(tensor):
                self.trace.put(tensor, each)
        return out
