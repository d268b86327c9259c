"""The optimizer of a recipe, and a guard against one that trains something else."""

from typing import Any

import torch
from torch import nn

from spectrim.errors import SpectrimError
from spectrim.nn.component import components
from spectrim.training.recipe import Recipe


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Everything that trains, in two groups: what weight decay pulls on, and what it spares.

    Whatever the recipe, it spares what a component says (:attr:`~spectrim.nn.Component.spared`).
    """
    own = {
        id(parameter)
        for _, each in components(model)
        for name, parameter in each.named_parameters(recurse=False)
        if name in each.spared
    }
    axes = 2 if recipe.decayed == "weights" else 0
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": recipe.weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter in model.parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim >= axes and id(parameter) not in own
            groups[0 if decayed else 1]["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))


def check_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """See that an optimizer trains exactly what the model has.

    An optimizer that was built before the model was compressed holds tensors that the model no longer has, and would
    train them in silence.

    Raises:
        SpectrimError: It holds other tensors, or misses some; the message names the first missed one.

    >>> model = nn.Linear(2, 2)
    >>> check_optimizer(model, torch.optim.SGD(model.parameters()))
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    own = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    stale = len(held - own.keys() - {id(parameter) for parameter in model.parameters()})
    missed = [name for key, name in own.items() if key not in held]
    if not stale and not missed:
        return
    first = f", and lacks {len(missed)} that it has (first: {missed[0]!r})" if missed else ""
    raise SpectrimError(
        f"the optimizer holds {stale} tensors that are not parameters of the model{first}. "
        "Build the optimizer after spectrim.compress_."
    )
