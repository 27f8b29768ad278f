"""Sphinx settings: Markdown pages by MyST, the API reference from docstrings."""

import prodml

project = "prodml"
author = "The prodml maintainers"
release = prodml.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
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
# Members are listed by autodoc; numpydoc lays out sections and numbers references apart.
numpydoc_show_class_members = False
# Diagrams are Mermaid text, which code hosts draw; here they are shown as text.
suppress_warnings = ["misc.highlighting_failure", "ref.python"]
