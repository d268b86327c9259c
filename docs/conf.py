"""Sphinx configuration: MyST pages, furo, the reference from the docstrings."""

from importlib.metadata import version as installed_version

project = "spectrim"
author = "The spectrim developers"
copyright = "2026, The spectrim developers"  # noqa: A001  (Sphinx names it)
version = release = installed_version("spectrim")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
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
