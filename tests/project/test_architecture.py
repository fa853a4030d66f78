"""The layers: every module is in one of them, and no import goes up, whatever its form and wherever it stands.

The table is that of `docs/design.md`, "The layers"; there is no second one.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "design.md"

HOOKS = {"late"}
"""Where a lower layer has what upper ones fill in. They are in the lowest layer; a circle through them is none."""

KNOWN: set[str] = set()
"""Imports that go up today. The test wants exactly these: one that is gone is taken out of the list."""

KNOWN_CIRCLES: list[set[str]] = []
"""Modules of one layer that import each other today."""


@dataclass
class Layers:
    """The table: where each module is, and which package may use which."""

    rank: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)
    may_use: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, text):
        """From rows such as ``| 1 structures | what | `ring`, `timers` |``; a package says in brackets what it may use."""
        layers = cls()
        section = text.partition("\n## The layers\n")[2].partition("\n## ")[0]
        for number, name, cell in re.findall(r"^\| (\d) ([\w ]+?) \|[^|]*\| (.*) \|$", section, re.M):
            layers.names.append(name)
            assert int(number) == len(layers.names) - 1, f"layer {name} is not numbered by its place"
            for module, used in re.findall(r"`([\w.]+)`(?: \(uses ([^)]*)\))?", cell):
                assert module not in layers.rank, f"{module} is in two layers"
                layers.rank[module] = int(number)
                layers.may_use[module] = set(re.findall(r"`(\w+)`", used))
                if name == "packages":
                    layers.packages.add(module)
        return layers

    def place(self, module):
        """What the table calls the module: itself, or its package."""
        head = module.partition(".")[0]
        return head if head in self.packages else module

    def allowed(self, importer, imported):
        here, there = self.place(importer), self.place(imported)
        if here == there:
            return True
        if here in self.packages and there in self.packages:
            return there in self.may_use[here]
        return self.rank[there] <= self.rank[here]


def module_name(path, package):
    name = ".".join(path.relative_to(package).with_suffix("").parts)
    return name.removesuffix("__init__").rstrip(".") or package.name


def code_of(path):
    """The source without comments and docstrings, which may talk of imports; its lines keep their numbers."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'"""(?:[^"\\]|\\.|"(?!""))*"""', lambda match: '""' + "\n" * match[0].count("\n"), text, flags=re.S)
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


STATEMENT = re.compile(
    r"^([ \t]*)(?:.*[;:] *)?(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n;]*)|c?import\s+([^\n;(]*))", re.M
)
DYNAMIC = re.compile(r"\b(?:import_module|__import__)\(\s*([^,)\n]+)")


def for_type_checkers(code):
    """The spans of `if TYPE_CHECKING:` blocks: they never run."""
    spans = []
    for match in re.finditer(r"^([ \t]*)if TYPE_CHECKING:\n((?:\1[ \t]+.*\n|[ \t]*\n)*)", code, re.M):
        spans.append(match.span())
    return spans


def imports_of(path, package, modules):
    """The modules of the package that a file imports in any way: `(module, line)`."""
    code = code_of(path)
    here = module_name(path, package).split(".")
    skipped = for_type_checkers(code)

    def resolve(name):
        if name.startswith("."):
            up = len(name) - len(name.lstrip("."))
            base = [] if here == [package.name] else here
            base = base if path.stem == "__init__" and up == 1 else base[: len(base) - (up - (path.stem == "__init__"))]
            return ".".join([*base, *filter(None, name.lstrip(".").split("."))])
        if name == package.name:
            return ""
        return name[len(package.name) + 1 :] if name.startswith(package.name + ".") else None

    def targets():
        for match in STATEMENT.finditer(code):
            if any(begin <= match.start() < end for begin, end in skipped):
                continue
            origin, names, plain = match.group(2, 3, 4)
            if origin is None:
                for name in plain.split(","):
                    yield resolve(name.split()[0]) if name.split() else None, match.start()
                continue
            origin = resolve(origin)
            if origin is None:
                continue
            for name in re.sub(r"[()\n]", " ", names).split(","):
                word = name.split()[0] if name.split() else ""
                below = f"{origin}.{word}".lstrip(".")
                # A name of a module, or a module of a package.
                yield below if below in modules else origin, match.start()
        # The hooks file has a table of what fills its hooks, and imports that by name.
        for match in DYNAMIC.finditer(code) if path.stem not in HOOKS else ():
            argument = match.group(1).strip()
            literal = re.fullmatch(r"""f?["']([\w.]+)["']""", argument)
            if literal:
                yield resolve(literal.group(1)), match.start()
            elif not (path.stem == "__init__" and argument.startswith('f"{__name__}.')) and path.stem != "__main__":
                raise AssertionError(f"{path}: import_module({argument}) cannot be looked up in the table")

    for target, at in targets():
        if target is not None:
            yield target or package.name, code.count("\n", 0, at) + 1


def graph_of(package):
    """`{module: {imported module: "file"}}` of all sources of a package."""
    files = [path for path in sorted(package.rglob("*")) if path.suffix in (".py", ".pyx", ".pxd")]
    modules = {module_name(path, package) for path in files}
    graph = {module: {} for module in modules}
    for path in files:
        here = module_name(path, package)
        for there, line in imports_of(path, package, modules):
            if there != here:
                graph[here].setdefault(there, f"{path.relative_to(package.parent)}, line {line}")
    return graph


def upward(graph, layers):
    """The imports that the table does not allow: `{"importer -> imported": where}`."""
    return {
        f"{here} -> {there}": where
        for here, imported in graph.items()
        for there, where in imported.items()
        if not layers.allowed(here, there)
    }


def circles(graph, layers):
    """The sets of modules of one layer that import each other."""
    within = {
        here: [
            there
            for there in imported
            if layers.rank[layers.place(here)] == layers.rank[layers.place(there)] and not {here, there} & HOOKS
        ]
        for here, imported in graph.items()
    }

    def reached(start):
        seen, stack = set(), list(within[start])
        while stack:
            module = stack.pop()
            if module not in seen:
                seen.add(module)
                stack.extend(within[module])
        return seen

    reach = {module: reached(module) for module in within}
    found = []
    for module in sorted(within):
        if module in reach[module]:
            circle = {other for other in reach[module] if module in reach[other]}
            if circle not in found:
                found.append(circle)
    return found


@pytest.fixture(scope="module")
def layers():
    return Layers.read(TABLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def graph():
    return graph_of(ROOT / "spdkthread")


def test_every_module_is_in_one_layer_and_the_table_names_no_other(graph, layers):
    assert {layers.place(module) for module in graph} == set(layers.rank)


def test_no_import_goes_up(graph, layers):
    found = upward(graph, layers)
    assert found.keys() == KNOWN, {edge: where for edge, where in found.items() if edge not in KNOWN}


def test_the_modules_of_a_layer_do_not_import_each_other_in_a_circle(graph, layers):
    found = circles(graph, layers)
    assert sorted(map(sorted, found)) == sorted(map(sorted, KNOWN_CIRCLES))


# That it can fail: a package made up for the purpose, with each way to import.

MADE_UP = """
## The layers

| layer | what | modules |
|---|---|---|
| 0 platform | | `clock`, `errors` |
| 1 threads | | `thread`, `poller` |
| 2 packages | | `aio`, `rpc` (uses `aio`) |
| 3 everything | | `made_up` |
"""

UPWARD = {
    "at the top": "from made_up.thread import spawn",
    "of the module": "import made_up.thread",
    "as a module": "from made_up import thread",
    "over several lines": "from made_up.thread import (\n    spawn,\n    exit,\n)",
    "from C": "from made_up.thread cimport spawn",
    "all of it from C": "cimport made_up.thread as other",
    "relative": "from .thread import spawn",
    "in a function": "def tick():\n    from made_up.thread import spawn\n    return spawn",
    "in one line": "def tick(): from made_up.thread import spawn",
    "by name": 'import importlib\ndef tick():\n    return importlib.import_module("made_up.thread")',
    "by __import__": 'def tick():\n    return __import__("made_up.thread")',
}


@pytest.fixture
def made_up(tmp_path):
    """A package of which a test adds to one module."""
    package = tmp_path / "made_up"
    (package / "aio").mkdir(parents=True)
    (package / "rpc").mkdir()
    for name in ("__init__.py", "errors.py", "aio/__init__.py", "aio/loop.py", "rpc/__init__.py", "poller.pyx"):
        (package / name).write_text("")
    (package / "clock.pyx").write_text("from made_up.errors import Error\n")
    (package / "thread.pyx").write_text("from made_up cimport poller\n\ndef spawn():\n    import made_up.clock\n")
    return package


def found_in(package):
    return set(upward(graph_of(package), Layers.read(MADE_UP)))


@pytest.mark.parametrize("way", UPWARD)
@pytest.mark.parametrize("file", ["clock.pyx", "clock.pxd", "errors.py"])
def test_an_upward_import_is_found_in_whatever_form(made_up, file, way):
    assert found_in(made_up) == set()
    with (made_up / file).open("a") as source:
        source.write(UPWARD[way] + "\n")
    assert found_in(made_up) == {f"{Path(file).stem} -> thread"}


def test_what_is_no_import_is_not_taken_for_one(made_up):
    (made_up / "errors.py").write_text(
        '"""\nfrom made_up.thread import spawn\n"""\n'
        "from typing import TYPE_CHECKING\n"
        "# import made_up.thread\n"
        "if TYPE_CHECKING:\n    from made_up.thread import spawn\n"
    )
    assert found_in(made_up) == set()


def test_a_package_uses_another_one_only_where_the_table_says_so(made_up):
    (made_up / "rpc" / "__init__.py").write_text("from made_up.aio.loop import run\nfrom ..thread import spawn\n")
    assert found_in(made_up) == set()
    (made_up / "aio" / "loop.py").write_text("def run():\n    import made_up.rpc\n")
    assert found_in(made_up) == {"aio.loop -> rpc"}


def test_an_import_of_the_package_itself_goes_up(made_up):
    (made_up / "thread.pyx").write_text("from made_up import something\n")
    assert found_in(made_up) == {"thread -> made_up"}


def test_a_circle_within_a_layer_is_found(made_up):
    layers = Layers.read(MADE_UP)
    assert circles(graph_of(made_up), layers) == []
    (made_up / "poller.pyx").write_text("def run():\n    from made_up.thread import spawn\n")
    assert circles(graph_of(made_up), layers) == [{"thread", "poller"}]


def test_an_import_whose_name_is_computed_is_refused(made_up):
    (made_up / "errors.py").write_text(
        "from importlib import import_module\nthread = import_module('made_up.' + name)\n"
    )
    with pytest.raises(AssertionError, match="cannot be looked up"):
        graph_of(made_up)


def test_a_module_that_stands_twice_in_the_table_is_refused():
    with pytest.raises(AssertionError, match="two layers"):
        Layers.read(MADE_UP.replace("`clock`", "`clock`, `poller`"))


# C declarations


def declared_c_names(path):
    """The C functions and variables that a file declares for itself, by their C names."""
    names = set()
    for block in re.findall(r"^cdef extern from [^\n]*:\n((?:(?:    |\t).*\n|\n)+)", path.read_text(), re.M):
        code = re.sub(r'^    """.*?^    """', "", block, flags=re.S | re.M)
        for line in re.findall(r"^    (?!ctypedef|struct|enum|cdef|#)(\S.*)$", code, re.M):
            function = re.match(r'[^(=]*?(\w+)(?: "(\w+)")?\(', line)
            variable = re.fullmatch(r'(?:const )?\w[\w ]*?[ *](\w+)(?: "(\w+)")?', line.partition("#")[0].rstrip())
            if match := function or variable:
                names.add(match[2] or match[1])
    return names


def test_a_c_function_is_declared_in_one_file():
    """Two declarations of one function drift apart: one says nogil or noexcept and the other does not."""
    where = {}
    for path in sorted((ROOT / "spdkthread").rglob("*.p[yx][xd]")):
        for name in declared_c_names(path):
            where.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in where.items() if len(files) > 1} == {}
    assert where["sched_yield"] == ["spdkthread/os_ext.pxd"]


# The walks of the design


def test_the_walks_name_files_and_functions_that_are_there():
    section = (
        TABLE.read_text(encoding="utf-8").partition("\n## Four walks through the files\n")[2].partition("\n## ")[0]
    )
    walked = 0
    for row in re.findall(r"^\|(.*)\|$", section, re.M):
        if not (match := re.search(r"`([\w/]+\.p(?:yx|xd))` \| (.*)", row)):
            continue
        path = ROOT / "spdkthread" / match[1]
        both = "".join(one.read_text() for one in (path.with_suffix(".pyx"), path.with_suffix(".pxd")) if one.exists())
        for name in re.findall(r"`(?:\w+\.)?(\w+)`", match[2]):
            # What a row says of callers and of the user's functions is in other files.
            if re.search(rf"^ *(?:cdef|def|static)\b[^\n]*\b{name}\(", both, re.M):
                walked += 1
            else:
                assert name in NOT_OF_THE_ROW, f"{match[1]} has no {name}"
    assert walked > 40


NOT_OF_THE_ROW = {
    "Call",
    "CompletionStack",
    "IoChannel",
    "send_try",
    "put",
    "get",
    "create_channel",
    "destroy_channel",
    "send_own",
    "send_call",
    "aio",
    "data_received",
    "reactor_detached",
    "run",
    "park",
    "drain_it",
}
"""Classes, callers and functions of the user's in the remarks of the walks."""
