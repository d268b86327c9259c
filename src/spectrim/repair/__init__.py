"""What can be mended in a compressed model by looking at images, before or without training."""

from spectrim.repair.norms import reestimate_norms_ as reestimate_norms_
from spectrim.repair.refit import repair_ as repair_
from spectrim.repair.report import Refitted as Refitted
from spectrim.repair.report import Repair as Repair
