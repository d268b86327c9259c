"""The LeNet-5 of 429,168 weights on which the Frequency Regularization paper makes its headline."""

from jaxtyping import Float
from torch import Tensor, nn


class LeNet5(nn.Module):
    """Two 5x5 convolutions and two linear layers: 8 and 128 channels, 196 hidden units.

    Args:
        in_channels: 1 for grey images.
        image_size: Side of the square input, at least 16: 28 for MNIST and the enlarged digits, 32 for CIFAR.
        num_classes: Number of outputs.

    Raises:
        ValueError: The image is too small for the two convolutions.

    References:
        LeCun et al. 1998, "Gradient-based learning applied to document recognition"; these widths: the layer
        counts 200, 25,600, 401,408 and 1,960 of Zhao et al. 2023 (arXiv 2304.07973).

    >>> sum(p.numel() for p in LeNet5().parameters() if p.ndim > 1)
    429168
    """

    def __init__(self, *, in_channels: int = 1, image_size: int = 28, num_classes: int = 10) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(f"LeNet-5 needs images of at least 16x16 pixels, got {image_size}x{image_size}.")
        side = ((image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 8, 5)
        self.conv2 = nn.Conv2d(8, 128, 5)
        self.fc1 = nn.Linear(128 * side * side, 196)
        self.fc2 = nn.Linear(196, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Class scores."""
        hidden = self.pool(self.relu(self.conv1(images)))
        hidden = self.pool(self.relu(self.conv2(hidden)))
        output: Tensor = self.fc2(self.relu(self.fc1(hidden.flatten(1))))
        return output


def lenet5(*, in_channels: int = 1, image_size: int = 28, num_classes: int = 10) -> LeNet5:
    """The network of the paper's headline, adapted to the data."""
    return LeNet5(in_channels=in_channels, image_size=image_size, num_classes=num_classes)
