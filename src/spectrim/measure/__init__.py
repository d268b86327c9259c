"""Parameters, stored numbers, operations and time: one honest convention each, stated where it is defined."""

from spectrim.measure.clock import Comparison, Latency, latency, paired_latency
from spectrim.measure.compute import Macs, macs, macs_report
from spectrim.measure.costs import Costs
from spectrim.measure.published import published_macs
from spectrim.measure.sessions import session_latency
from spectrim.measure.size import Numbers, numbers, parameters, state_bytes
from spectrim.measure.surroundings import fast_bfloat16, hardware, versions

__all__ = [
    "Comparison",
    "Costs",
    "Latency",
    "Macs",
    "Numbers",
    "fast_bfloat16",
    "hardware",
    "latency",
    "macs",
    "macs_report",
    "numbers",
    "paired_latency",
    "parameters",
    "published_macs",
    "session_latency",
    "state_bytes",
    "versions",
]
