"""Sphinx configuration: MyST pages, furo, the reference from the docstrings."""

from importlib.metadata import version as installed_version

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "spectrim"
author = "The spectrim developers"
copyright = "2026, The spectrim developers"  # noqa: A001  (Sphinx names it)
version = release = installed_version("spectrim")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "spectrim"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # links to files outside docs (LICENSE); tests/test_readme.py checks that they lead somewhere
]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Formulas as MathML, which browsers draw themselves: the pages need no network and no script.
html_math_renderer = "mathml"


def _draw_inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _draw_block(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (_draw_inline, None), (_draw_block, None))
