"""How the documentation is built: `sphinx-build -W -b html docs docs/_build`, with the extra `docs` installed."""

from importlib.metadata import version as installed_version

project = "w2vlab"
author = "the w2vlab authors"
release = version = installed_version("w2vlab")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "examples", "jupyter_execute"]  # the last is what myst_nb leaves beside its output
html_theme = "furo"
html_title = "w2vlab"
html_static_path = ["_static"]
html_css_files = ["beside.css"]

# Notebooks are executed by the tests and saved with their outputs.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Docstrings are Google style, with a section of their own for the paper; single backticks are code.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Reference"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_maximum_signature_line_length = 100
