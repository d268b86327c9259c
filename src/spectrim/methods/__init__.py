"""The published methods, one file per paper."""

from spectrim.methods.cfdp import CFDP as CFDP
from spectrim.methods.frequency_regularization import FrequencyRegularization as FrequencyRegularization
from spectrim.methods.method import METHODS as METHODS
from spectrim.methods.method import Method as Method
from spectrim.methods.pointwise_pruning import PointwisePruning as PointwisePruning
from spectrim.methods.reconstructed_filters import ReconstructedFilters as ReconstructedFilters
