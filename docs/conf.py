"""Sphinx configuration.  Build with ``python -m sphinx -W -b html docs docs/_build/html``; nothing is fetched."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import skinterflow

project = "skinterflow"
author = "the skinterflow developers"
copyright = f"2026, {author}"
version = release = skinterflow.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
default_role = "literal"

autosummary_generate = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
numpydoc_show_class_members = False  # the template of a class lists its own methods; torch.nn.Module's are left out
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = f"skinterflow {version}"
html_show_sourcelink = False
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
