"""Write the docstrings of Cython sources into their stubs: an editor shows those, and cannot see compiled ones.

    stub_docstrings.py DIRECTORY     the stubs below DIRECTORY are rewritten, from the .pyx beside each

The stubs of the tree have no docstrings, so that each stands in one place; `setup.py` calls this for the copies that it
installs. Docstrings that a stub has (of attributes, which have none when they are compiled) stay.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

HEADER = re.compile(r"^( *)(?:cdef class|class|async def|def|cpdef(?: [\w.]+)*?) +(\w+)\s*(?=[(:])")
# Methods that are added to a class by hand: name, function, docstring.
BY_HAND = re.compile(r'add_fast_method\(<PyObject \*>(\w+), &\w+, "(\w+)", \w+, b("""\\?\n.*?""")\)', re.DOTALL)
QUOTES = re.compile(r'^ *r?"""')


def docstrings(source: str) -> dict[str, str]:
    """Docstrings of a Cython source by qualified name."""
    found: dict[str, str] = {}
    classes: list[tuple[int, str]] = []
    lines = source.splitlines(keepends=True)
    for number, line in enumerate(lines):
        header = HEADER.match(line)
        if header is None:
            continue
        indent, name = len(header[1]), header[2]
        while classes and classes[-1][0] >= indent:
            classes.pop()
        qualname = ".".join([name for _, name in classes] + [name])
        if re.match(r" *(cdef class|class) ", line):
            classes.append((indent, name))
        elif classes and classes[-1][0] + 4 != indent:
            continue  # a function inside a function
        text = docstring_after(lines, number)
        if text is not None:
            found.setdefault(qualname, text)
    for cls, name, text in BY_HAND.findall(source):
        found[f"{cls}.{name}"] = cleaned(ast.literal_eval(text))
    return found


def docstring_after(lines: list[str], number: int) -> str | None:
    """The docstring under the header that begins in line `number`."""
    depth = 0
    for last in range(number, min(number + 40, len(lines))):
        code = lines[last].split("#")[0]
        depth += sum(code.count(one) for one in "([{") - sum(code.count(one) for one in ")]}")
        if depth <= 0 and code.rstrip().endswith(":"):
            break
    else:
        return None
    begin = last + 1
    if begin >= len(lines) or not QUOTES.match(lines[begin]):
        return None
    for end in range(begin, len(lines)):
        text = "".join(lines[begin : end + 1]).strip()
        if text.endswith('"""') and text.count('"""') >= 2:
            return cleaned(ast.literal_eval(text))
    return None


def cleaned(text: str) -> str:
    """Without indentation, and without the signature that `inspect.signature` reads."""
    _, separator, rest = text.partition(")\n--\n\n")
    return inspect.cleandoc(rest if separator else text)


def documented(stub: str, source: str) -> str:
    """The stub with the docstrings of its source."""
    found = docstrings(source)
    lines = stub.splitlines()
    for qualname, node in reversed(list(definitions(ast.parse(stub)))):
        if qualname not in found or ast.get_docstring(node) is not None:
            continue
        indent = " " * (node.col_offset + 4)
        text = quoted(found[qualname], indent)
        first = node.body[0]
        if isinstance(node, ast.ClassDef) and first.lineno - 1 > header_end(lines, node):
            lines[header_end(lines, node)] += "\n" + text
            continue
        line = lines[first.lineno - 1]
        if line.endswith("..."):
            lines[first.lineno - 1] = line[: first.col_offset].rstrip() + "\n" + text
    return "\n".join(lines) + "\n"


def definitions(tree: ast.Module):
    """Every class and function of a stub, in its order, with its qualified name; setters are not among them."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name, node
            for member in node.body:
                if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_setter(member):
                    yield f"{node.name}.{member.name}", member
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node


def is_setter(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(one, ast.Attribute) and one.attr == "setter" for one in node.decorator_list)


def header_end(lines: list[str], node: ast.ClassDef) -> int:
    """Index of the line in which the header of a class ends."""
    number = node.lineno - 1
    while not lines[number].rstrip().endswith((":", "...")):
        number += 1
    return number


def quoted(text: str, indent: str) -> str:
    body = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if "\n" in body:
        body += "\n"
    if body.endswith('"'):
        body += " "
    return "\n".join((indent + line).rstrip() for line in f'"""{body}"""'.split("\n"))


def rewrite(directory: Path, sources: Path | None = None) -> int:
    """Rewrite every stub below `directory` that has a source beside it, or at its place below `sources`."""
    changed = 0
    for stub in sorted(directory.rglob("*.pyi")):
        source = (sources or directory) / stub.relative_to(directory).with_suffix(".pyx")
        if source.exists():
            text = documented(stub.read_text(encoding="utf-8"), source.read_text(encoding="utf-8"))
            ast.parse(text)
            stub.write_text(text, encoding="utf-8")
            changed += 1
    return changed


if __name__ == "__main__":
    print(rewrite(Path(sys.argv[1])), "stubs")
