"""Sphinx settings: Markdown pages by MyST, the API reference from docstrings."""

import prodml

project = "prodml"
author = "The prodml maintainers"
release = prodml.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "prodml"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
# Diagrams are Mermaid text, which code hosts draw; here they are shown as text.
suppress_warnings = ["misc.highlighting_failure", "ref.python"]
