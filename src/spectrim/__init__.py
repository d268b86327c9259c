"""Make trained vision networks smaller and faster in the frequency domain."""

from spectrim.errors import ArtifactError as ArtifactError
from spectrim.errors import DataError as DataError
from spectrim.errors import OrderError as OrderError
from spectrim.errors import PlanError as PlanError
from spectrim.errors import SiteError as SiteError
from spectrim.errors import SpectrimError as SpectrimError
from spectrim.errors import UnsupportedError as UnsupportedError
from spectrim.methods import FrequencyRegularization as FrequencyRegularization
from spectrim.surgery import Plan as Plan
from spectrim.verbs import anneal_ as anneal_
from spectrim.verbs import compress_ as compress_
from spectrim.verbs import finalize_ as finalize_
from spectrim.verbs import penalty as penalty
from spectrim.verbs import plan as plan
