"""The ways in which a model may change: sites to choose from, edits as data, plans that make them."""

from spectrim.surgery.edits import Edit as Edit
from spectrim.surgery.edits import ParametrizeTensor as ParametrizeTensor
from spectrim.surgery.edits import SwapModule as SwapModule
from spectrim.surgery.plan import Plan as Plan
from spectrim.surgery.plan import Skipped as Skipped
from spectrim.surgery.prune import PruneChannels as PruneChannels
from spectrim.surgery.sites import Coded as Coded
from spectrim.surgery.sites import Site as Site
from spectrim.surgery.sites import Where as Where
from spectrim.surgery.sites import coded as coded
