"""The small vision transformer of the Frequency Regularization paper."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention after a norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """What each token gathers from the others."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(self.norm(tokens)).reshape(batch, count, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        gathered = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(gathered.transpose(1, 2).reshape(batch, count, dim))
        return output


class MLP(nn.Module):
    """Two linear layers after a norm."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """What each token becomes on its own."""
        output: Tensor = self.fc2(F.gelu(self.fc1(self.norm(tokens))))
        return output


class Block(nn.Module):
    """Attention and MLP, each added to what came in."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.mlp = MLP(dim, dim)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The tokens after both."""
        tokens = tokens + self.attention(tokens)
        output: Tensor = tokens + self.mlp(tokens)
        return output


class ViT(nn.Module):
    """Six blocks of dimension 512 over patches of 4x4 pixels.

    Args:
        in_channels: 3 for colour images.
        image_size: Side of the square input, a multiple of the patch.
        num_classes: Number of outputs.
        patch: Side of a patch.
        dim: Dimension of a token; also of the hidden layers.
        depth: Number of blocks.
        heads: Of the attention.

    Raises:
        ValueError: The patches do not tile the image.

    References:
        Dosovitskiy et al. 2021 (arXiv 2010.11929); sizes as in the supplement of Zhao et al. 2023, tables 11-12.

    >>> with torch.device("meta"):
    ...     model = ViT()
    >>> sum(
    ...     p.numel() for name, p in model.named_parameters() if p.ndim > 1 or "norm" not in name and "bias" not in name
    ... )
    9500672
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 32,
        num_classes: int = 10,
        patch: int = 4,
        dim: int = 512,
        depth: int = 6,
        heads: int = 8,
    ) -> None:
        super().__init__()
        side, rest = divmod(image_size, patch)
        if rest or not side:
            raise ValueError(f"patches of {patch}x{patch} do not tile images of {image_size}x{image_size} pixels.")
        self.patch = patch
        self.patch_embedding = nn.Linear(in_channels * patch * patch, dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(1, side * side + 1, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores."""
        patches = F.pixel_unshuffle(images, self.patch).flatten(2).transpose(1, 2)
        tokens = self.patch_embedding(patches)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        output: Tensor = self.head(self.norm(tokens[:, 0]))
        return output


def vit(*, in_channels: int = 3, image_size: int = 32, num_classes: int = 10) -> ViT:
    """The transformer of 9,500,672 weights for 32x32 images."""
    return ViT(in_channels=in_channels, image_size=image_size, num_classes=num_classes)
