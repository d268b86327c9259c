"""How good a network is on the test images: accuracy, or Dice where every pixel has a class."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from spectrim.calibration import at_a_time
from spectrim.training.images import Images
from spectrim.training.source import Task

NAMES: dict[Task, str] = {"classification": "accuracy", "segmentation": "dice"}


def metric_for(task: Task, num_classes: int) -> Metric:
    """Share of images that are classified right; for pixels, the Dice coefficient averaged over the classes.

    Dice is the F1 score of the pixels.
    """
    if task == "classification":
        return MulticlassAccuracy(num_classes, average="micro")
    return MulticlassF1Score(num_classes, average="macro")


def evaluate(
    model: nn.Module,
    images: Images,
    *,
    task: Task,
    num_classes: int,
    prepare: Callable[[Tensor], Tensor],
    accelerator: Accelerator,
    batch_size: int = 256,
) -> float:
    """The metric on all images, shared among the processes; the model is left in the mode it was in.

    Args:
        model: On the accelerator's device, the same in every process.
        images: To test on.
        task, num_classes: What the labels are.
        prepare: From pixels to what the network sees.
        accelerator: Says where to run, with whom and in which precision.
        batch_size: Images at a time in one process; a processor takes fewer of large ones.

    Returns:
        A fraction in [0, 1].
    """
    metric = metric_for(task, num_classes).to(accelerator.device)
    training = model.training
    model.eval()
    rows = torch.arange(len(images))[accelerator.process_index :: accelerator.num_processes]
    with torch.no_grad():
        for some in torch.split(rows, batch_size):
            pixels, labels = images.batch(some)
            x, labels = prepare(pixels.to(accelerator.device)), labels.to(accelerator.device)
            size = at_a_time(x[0], len(x))
            for part, classes in zip(torch.split(x, size), torch.split(labels, size), strict=True):
                with accelerator.autocast():
                    scores = model(part)
                metric.update(scores.float(), classes)
    model.train(training)
    return float(metric.compute())
