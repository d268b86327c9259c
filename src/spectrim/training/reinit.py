"""What a cut network starts from, where that is not what the cut left: fresh weights, all of them or some."""

from typing import Literal, get_args

from torch import nn
from torch.nn.modules.conv import _ConvNd

Reinit = Literal["none", "hrankplus", "all"]
REINIT: tuple[Reinit, ...] = get_args(Reinit)


def reinitialise_(model: nn.Module, fresh: nn.Module, how: Reinit) -> nn.Module:
    """Take over the numbers of a network with fresh weights that was cut alike.

    Args:
        model: The cut network.
        fresh: Of the same shapes, with the network's own initialisation at its full size.
        how: ``all``: everything; ``hrankplus``: everything but the weights of convolutions, which is how the released program
            of CFDP, after HRankPlus, starts VGG on CIFAR-10; ``none``: nothing.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    >>> _ = nn.init.zeros_(model[0].weight), nn.init.zeros_(model[1].weight)
    >>> fresh = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    >>> model = reinitialise_(model, fresh, "hrankplus")
    >>> model[0].weight.sum().item(), model[1].weight.tolist()
    (0.0, [1.0, 1.0])
    """
    if how == "none":
        return model
    paths = [path for path, module in model.named_modules() if isinstance(module, _ConvNd)]
    stay = {f"{path}.weight".lstrip(".") for path in paths} if how == "hrankplus" else set()
    own = model.state_dict()
    model.load_state_dict({name: own[name] if name in stay else value for name, value in fresh.state_dict().items()})
    return model
