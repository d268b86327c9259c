"""Attention is cut by whole heads."""

import pytest
import timm
import torch

from spectrim import PlanError
from spectrim.surgery import PruneChannels
from spectrim.surgery.channels import cut, groups
from spectrim.surgery.prune import Cut
from tests.surgery.cutting import assert_equal_to_the_silenced, settled


def vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, depth=2)


def test_attention_loses_whole_heads_and_counts_them():
    torch.manual_seed(0)
    model = settled(vit(), x := torch.randn(2, 3, 32, 32, dtype=torch.float64))
    found, _ = groups(model, [x[:1]])
    heads = [group for group in found if group.path.endswith("qkv")]
    assert [(group.width, len(group.units)) for group in heads] == [(3 * 192, 3)] * 2
    edit = cut(model, heads[0], [1])
    attention = model.blocks[0].attn
    undo = edit.prepare(model)()
    assert (attention.num_heads, attention.attn_dim) == (2, 128)
    undo()
    assert (attention.num_heads, attention.attn_dim) == (3, 192)
    assert_equal_to_the_silenced(model, (edit,), x)
    assert (attention.num_heads, attention.attn_dim) == (2, 128)
    assert model.blocks[1].attn.num_heads == 3


def test_a_part_of_a_head_does_not_go():
    model = vit()
    rows = PruneChannels("blocks.0.attn.qkv", (5,), 576, (Cut((5,), (("blocks.0.attn.qkv.weight", 0, (576, 192)),
                                                                   ("blocks.0.attn.qkv.bias", 0, (576,)))),))  # fmt: skip
    with pytest.raises(PlanError, match=r"planned to cut 'blocks\.0\.attn', found that what is left is no Attention"):
        rows.prepare(model)
