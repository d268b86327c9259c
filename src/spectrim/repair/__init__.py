"""What can be mended in a compressed model by looking at images, before or without training."""

from spectrim.repair.norms import reestimate_norms_ as reestimate_norms_
