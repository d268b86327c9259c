"""One small file per model: what the model is, and its numbers."""

from spectrim.artifact.frereg import import_frereg_ as import_frereg_
from spectrim.artifact.layout import ByteCounts as ByteCounts
from spectrim.artifact.loading import load_ as load_
from spectrim.artifact.reader import read as read
from spectrim.artifact.reader import read_structure as read_structure
from spectrim.artifact.saving import save as save
from spectrim.artifact.structure import ComponentEntry as ComponentEntry
from spectrim.artifact.structure import Structure as Structure
from spectrim.artifact.structure import TensorEntry as TensorEntry
