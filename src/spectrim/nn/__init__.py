"""The modules that may stand in a compressed model."""

from spectrim.nn.absorbed import Absorbed as Absorbed
from spectrim.nn.band_groups import GroupedBandsConv2d as GroupedBandsConv2d
from spectrim.nn.component import KINDS as KINDS
from spectrim.nn.component import Codec as Codec
from spectrim.nn.component import Component as Component
from spectrim.nn.component import Layer as Layer
from spectrim.nn.component import components as components
from spectrim.nn.factored import FactoredConv as FactoredConv
from spectrim.nn.factored import FactoredLinear as FactoredLinear
from spectrim.nn.flat_bands import FlatBandsConv2d as FlatBandsConv2d
from spectrim.nn.folded import FoldedConv2d as FoldedConv2d
from spectrim.nn.fused import FusedDepthwise as FusedDepthwise
from spectrim.nn.learning import Learning as Learning
from spectrim.nn.pointwise import BandedPointwiseConv2d as BandedPointwiseConv2d
from spectrim.nn.pointwise import cut_offs as cut_offs
from spectrim.nn.spectral import SpectralCodec as SpectralCodec
from spectrim.nn.spectral import draw_spectra_ as draw_spectra_
