"""The documentation's settings: ``python -m sphinx -W docs build/docs`` builds it, offline, warnings as errors."""

import sys
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import jaxcomp

sys.path.insert(0, str(Path(__file__).parent))
import api  # of this folder

project = "jaxcomp"
author = "the jaxcomp authors"
copyright = "the jaxcomp authors, Apache-2.0"
release = getattr(jaxcomp, "__version__", "0.1.0")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["build", "_templates"]
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
repository = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
notebook = f"{repository.replace('github.com', 'colab.research.google.com/github')}/blob/main/colab/{{{{path}}}}.ipynb"
myst_url_schemes = {"http": None, "https": None, "colab": notebook}

autosummary_generate = [f"api/{kind}.rst" for kind in api.KINDS]
autosummary_imported_members = True
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries = False
nitpicky = True  # a function or module that a page or a docstring names must be in the reference; types need not
nitpick_ignore_regex = [("py:(class|exc)", ".*")]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "jaxcomp"
html_static_path = ["_static"]
html_css_files = ["jaxcomp.css"]
html_copy_source = False
html_show_sourcelink = False
html_domain_indices = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _skipped(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Fields of a named tuple are told in its ``Attributes``: "Alias for field number 0" says nothing more."""
    return True if type(member).__name__ == "_tuplegetter" else None


def _resolved(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Finds what a docstring calls by its last name alone, in whichever package it is."""
    if node.get("refdomain") != "py" or "." in node["reftarget"]:
        return None
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.rpartition(".")[2] == node["reftarget"]]
    order = ("jaxcomp.rewrite", "jaxcomp.posttrain", "jaxcomp.observe", "jaxcomp")
    found.sort(key=lambda name: next((i for i, package in enumerate(order) if name.startswith(package)), len(order)))
    node["reftarget"] = found[0] if found else node["reftarget"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, text)


def _mathml(writer: Any, node: Any) -> None:
    """Writes a formula as MathML, which browsers show without a script from elsewhere."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    writer.body.append(convert(node.astext().replace(r"\arg\min", r"\operatorname{arg\,min}"), display=display))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", inline_renderers=(_mathml, None), block_renderers=(_mathml, None))
    app.connect("missing-reference", _resolved)
    api.write(Path(app.srcdir) / "api")
    app.connect("autodoc-skip-member", _skipped)
