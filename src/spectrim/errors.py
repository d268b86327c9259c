"""The exceptions that spectrim raises on purpose.

.. code-block:: text

    SpectrimError
    ├── SiteError          nothing (or the wrong thing) selected
    ├── OrderError         fine before coarse
    ├── PlanError          the plan does not fit this model
    ├── UnsupportedError   this layer, rank or dtype; says whether ever, not yet, or after which change
    ├── DataError          the data source: which file, which row, what was expected
    └── ArtifactError      the file

A message has three parts in this order: what was asked, what was found, what to do. Bad argument values are
``ValueError`` and ``TypeError``.
"""


class SpectrimError(Exception):
    """Base class of everything that spectrim raises on purpose."""


class SiteError(SpectrimError):
    """A selection matched nothing, or something that cannot be edited."""


class OrderError(SpectrimError):
    """A coarse edit was asked for after a fine one, or the same one twice."""


class PlanError(SpectrimError):
    """A plan does not fit the model it is applied to."""


class UnsupportedError(SpectrimError):
    """A layer, rank or dtype that is not handled; the message says whether it ever will be."""


class DataError(SpectrimError):
    """A data source is missing, damaged or of the wrong shape."""


class ArtifactError(SpectrimError):
    """A file is not an artifact, is damaged, or belongs to another model."""


def first_line(error: BaseException) -> str:
    """What somebody else's error says, in one line, to be told in one of ours.

    >>> first_line(ValueError("sizes differ\\nin many places")), first_line(KeyError())
    ('sizes differ', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
