"""Sphinx's settings."""

from __future__ import annotations

import sys
from importlib.metadata import version as _version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tables import TABLES

project = "Flask-Postal"
copyright = "2026 The Flask-Postal authors"
release = _version("Flask-Postal")
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "hostile-table.md", "ledger-table.md"]
html_theme = "furo"
html_title = "Flask-Postal"
myst_enable_extensions = ["colon_fence", "deflist", "substitution"]
myst_heading_anchors = 3
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autoclass_content = "both"
# ``{{ message_events }}`` in a page is a table that tables.py makes from the code.
myst_substitutions = TABLES
