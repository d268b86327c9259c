"""Attention modules whose projections lose whole heads: what they have to know about it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from spectrim.surgery.rules import Rule, Shape

_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads")
_WIDTHS = ("attn_dim", "key_attn_dim", "val_attn_dim", "all_head_size", "inner_dim")
_PROJECTIONS = (
    "qkv",
    "q",
    "k",
    "v",
    "kv",
    "q_proj",
    "k_proj",
    "v_proj",
    "query",
    "key",
    "value",
    "to_qkv",
    "to_q",
    "to_kv",
)


class Heads(Rule):
    """An attention that counts its heads in an attribute, and makes queries, keys and values in layers of its own.

    Its names are those of timm and transformers. Whether its forward follows when the count changes is tried on a copy,
    as for every cut.
    """

    def outputs(self, layer: nn.Module) -> list[tuple[str, int]]:
        """What the module holds for each head: biases by position, temperatures."""
        count = _count(layer)
        return [
            (name, dim)
            for name, tensor in layer.named_parameters(recurse=False)
            for dim, side in enumerate(tensor.shape)
            if count is not None and side == count[1]
        ]

    def sizes(self, layer: nn.Module, shapes: Mapping[str, Shape]) -> dict[str, int] | None:
        """Fewer heads, and what is as wide as all of them; None where a head would lose a part."""
        count = _count(layer)
        if count is None:
            return None
        name, heads = count
        before = {each: tuple(tensor.shape) for each, tensor in layer.named_parameters()}
        rows = {(shape[0], shapes.get(each, shape)[0]) for each, shape in before.items() if _projects(each)}
        left = {divmod(heads * new, old) for old, new in rows if new != old}
        if not left:
            return {}
        new, rest = left.pop()
        fits = all(shapes[each][dim] in (new, heads) for each, dim in self.outputs(layer) if each in shapes)
        if left or rest or not 1 <= new <= heads or not fits:
            return None
        values = {each: vars(layer).get(each) for each in _WIDTHS}
        return {name: new} | {each: value * new // heads for each, value in values.items() if type(value) is int}

    @classmethod
    def fits(cls, layer: nn.Module) -> bool:
        """Whether a module is one of these."""
        return _count(layer) is not None and any(_projects(name) for name, _ in layer.named_parameters())


def _count(layer: Any) -> tuple[str, int] | None:
    found = ((name, vars(layer).get(name)) for name in _COUNTS)
    return next(((name, count) for name, count in found if type(count) is int), None)


def _projects(name: str) -> bool:
    child, _, rest = name.partition(".")
    return child in _PROJECTIONS and rest.endswith("weight")
