"""Sphinx configuration.  Build with ``python -m sphinx -W -b html docs docs/_build/html``; nothing
is fetched.

All examples are run, in about seven minutes of one core: ``-j 2`` runs two at a time, and
``-D plot_gallery=0`` none.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent))
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
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "auto_examples/**/*.ipynb", "auto_examples/**/*.py"]
default_role = "literal"

autosummary_generate = True
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "RandomStateLike")}
python_maximum_signature_line_length = 88
numpydoc_show_class_members = (
    False  # the template of a class lists its own methods; torch.nn.Module's are left out
)
toc_object_entries_show_parents = "hide"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",  # all are run
    "within_subsection_order": "gallery.Order",
    "reset_argv": "gallery.no_plot_file",
    "backreferences_dir": "api/backreferences",
    "doc_module": ("skinterflow",),
    "parallel": True,
    "show_memory": False,
    "write_computation_times": False,
}

html_static_path = ["_css"]
html_css_files = ["site.css"]
html_theme = "pydata_sphinx_theme"
html_title = f"skinterflow {version}"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 8,  # every section has its link
}


def with_plain_aliases(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    return_annotation: str | None,
) -> tuple[str | None, str | None]:
    """Sphinx shows an alias within a union, such as ``ArrayLike | None``, by the repr of its
    stand-in; only the name is wanted."""
    shown = [
        text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text)
        for text in (signature, return_annotation)
    ]
    return shown[0], shown[1]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", with_plain_aliases)
