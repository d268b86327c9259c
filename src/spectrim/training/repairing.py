"""The edits of a job, and the repair that follows a cut."""

import copy

from torch import nn

import spectrim
from spectrim.repair import Repair
from spectrim.training.setting import Setting


def edited_(setting: Setting, model: nn.Module, plan: spectrim.Plan) -> Repair | None:
    """Apply a plan, and mend what is left where the job asks for it.

    The same for the same network and images, so a run that is resumed before it has written this down does it again.
    """
    if not setting.job.repairs or not plan.edits:
        plan.apply_(model)
        return None
    original = copy.deepcopy(model)
    plan.apply_(model)
    return spectrim.repair_(model, original, plan=plan, calibration=setting.calibration)
