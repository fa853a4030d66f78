"""The documentation as a site: ``make docs``."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import spdkthread  # noqa: E402

project = "spdkthread"
author = "The spdkthread developers"
copyright = author
version = release = spdkthread.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]
root_doc = "index"
exclude_patterns = ["measured/*.png"]
html_theme = "furo"
html_title = f"spdkthread {release}"
html_copy_source = False

# Docstrings.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_docstring_signature = True
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# In a docstring `fn` is a parameter and `send_msg` a method of the same class; a name of another package is shown as
# it is. Everything else has to be there.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"[a-z_]\w*"),
    ("py:.*", "SpdkFuture"),  # made when the first one is needed
    ("py:.*", r"(asyncio|concurrent|threading|selectors|socket|logging|numpy|typing)\..*"),
]


def attributes_of_stubs() -> dict[tuple[str, str], str]:
    """Docstrings of attributes that have none when they are compiled, by class and name."""
    found = {}
    for stub in (ROOT / "spdkthread").rglob("*.pyi"):
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef) and (text := ast.get_docstring(member)):
                        found[node.name, member.name] = text
    return found


STUBS = attributes_of_stubs()
COLON = "\ue000"


def docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """Take off the type that Cython writes before the docstring of a property, and fill in those of the stubs."""
    member = name.rpartition(".")[2]
    if lines and re.match(rf"{member}: ", lines[0]):
        del lines[:2]
    if not "".join(lines).strip():
        text = STUBS.get(tuple(name.split(".")[-2:]))
        if text is not None:
            lines[:] = text.splitlines()
    # The text of a signature that inspect reads.
    if what == "class" and inspect.isclass(obj) and lines and lines[0].startswith(f"{member}("):
        del lines[: lines.index("--") + 2 if "--" in lines else 2]
    # Napoleon takes what stands before a colon in the first line of an attribute for its type.
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)


def colons(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = [line.replace(COLON, ":") for line in lines]


def resolve(app, env, node, contnode):
    """Find a name that is given without its module."""
    if node.get("refdomain") == "py" and node["reftarget"][:1].isupper():
        domain = env.domains["py"]
        # An object is also listed by the module that defines it.
        named = sorted((name for name in domain.objects if name.endswith(f".{node['reftarget']}")), key=len)
        if named:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", named[0], node, contnode)
    return None


def without_self(app, what, name, obj, options, signature, returns):
    """The docstrings of compiled methods show ``self``."""
    if signature:
        signature = re.sub(r"^\(self(, )?", "(", signature)
    return signature, returns


def skip(app, what, name, obj, skip, options) -> bool | None:
    """Keep attributes whose docstring stands in the stub."""
    owner = getattr(getattr(obj, "__objclass__", None), "__name__", None)
    return False if (owner, name) in STUBS else None


def setup(app) -> None:
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", without_self)
    app.connect("autodoc-process-docstring", docstring, priority=100)
    app.connect("autodoc-process-docstring", colons, priority=900)
    app.connect("missing-reference", resolve)
