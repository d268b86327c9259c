"""Optional fast paths: each is a plain torch function, and a compiled one with the same arguments and the same results."""

from spectrim.kernels.building import build as build
from spectrim.kernels.building import load_triton as load_triton
