"""What people and programs read about a model: rows first, table and page second.

The page (:mod:`spectrim.report.page`) needs the ``report`` extra and is imported where it is written.
"""

from spectrim.report.channels import ChannelInspection
from spectrim.report.frequencies import FrequencyInspection
from spectrim.report.inspection import Inspection, Row, inspect_model, inspect_parts
from spectrim.report.page import render, write_page
from spectrim.report.spectrum import coefficients_for, cumulative_energy, spectra
from spectrim.report.tables import Table, before_after

__all__ = [
    "ChannelInspection",
    "FrequencyInspection",
    "Inspection",
    "Row",
    "Table",
    "before_after",
    "coefficients_for",
    "cumulative_energy",
    "inspect_model",
    "inspect_parts",
    "render",
    "spectra",
    "write_page",
]
