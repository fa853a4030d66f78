"""What an editor and a type checker see: signatures, docstrings, stubs."""

import ast
import dataclasses
import inspect
import re
import sys
from pathlib import Path

import pytest
from support import run_python

import spdkthread
from spdkthread import aio, app, bdev, monitor, rpc, sock, testing, trace

pytestmark = pytest.mark.no_sanitizer(
    reason="compiles, installs or measures the library itself, or needs more memory than a sanitizer leaves"
)

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "spdkthread"
sys.path.insert(0, str(ROOT / "tools"))
from stub_docstrings import docstrings, documented  # noqa: E402

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (spdkthread, aio, app, bdev, monitor, rpc, sock, testing, trace)
    for name in module.__all__
}
CLASSES = sorted((name for name, one in PUBLIC.items() if inspect.isclass(one)), key=str)
PROGRAMS = {
    name: (ROOT / "tests" / "typing" / f"{name}.py").read_text(encoding="utf-8") for name in ("everything", "packages")
}
# Named tuples are tuples, exceptions are exceptions: what those have is not this package's.
INHERITED = set(dir(tuple)) | set(dir(Exception)) | {"_make", "_asdict", "_replace", "_fields", "_field_defaults"}


def members(cls: type) -> list[str]:
    """Public methods and properties that the class itself has."""
    return sorted(name for name in vars(cls) if not name.startswith("_") and name not in INHERITED)


@pytest.mark.parametrize("name", CLASSES)
def test_the_signature_of_every_public_class_and_method_can_be_read(name):
    cls = PUBLIC[name]
    inspect.signature(cls)
    for member in members(cls):
        if callable(getattr(cls, member)):
            shown = inspect.signature(getattr(cls, member)).parameters
            assert isinstance(vars(cls)[member], (classmethod, staticmethod)) or "self" in shown


@pytest.mark.parametrize("name", [name for name, one in PUBLIC.items() if callable(one)])
def test_the_signature_of_every_public_function_can_be_read(name):
    inspect.signature(PUBLIC[name])


def constructors() -> dict[str, ast.arguments]:
    """The arguments of ``__init__`` of each compiled class, as its stub has them."""
    return {
        node.name: member.args
        for stub in sorted(PACKAGE.rglob("*.pyi"))
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        for member in node.body
        if isinstance(member, ast.FunctionDef) and member.name == "__init__"
    }


@pytest.mark.parametrize(
    "name", ["FdHandler", "IoChannel", "IoDevice", "ManualClock", "Poller", "Reactor", "SpdkThread", "ThreadLib"]
)
def test_a_class_shows_the_signature_of_its_stub(name):
    cls = getattr(spdkthread, name)
    shown = inspect.signature(cls).parameters
    args = constructors().get(name)
    if args is None:  # made by the library only
        assert not shown
        with pytest.raises(TypeError, match=r"comes from|only spdkthread itself makes them"):
            cls()
        return
    assert list(shown) == [one.arg for one in args.args[1:] + args.kwonlyargs]
    defaults = [ast.literal_eval(one) for one in [*args.defaults, *filter(None, args.kw_defaults)]]
    assert [one.default for one in shown.values()] == defaults
    assert [one.kind is inspect.Parameter.KEYWORD_ONLY for one in shown.values()] == [False] * (len(args.args) - 1) + [
        True
    ] * len(args.kwonlyargs)


@pytest.mark.parametrize("name", ["IoDevice", "ManualClock", "Reactor", "SpdkThread", "ThreadLib"])
def test_a_class_takes_what_its_signature_shows_and_nothing_else(name):
    cls = getattr(spdkthread, name)
    shown = inspect.signature(cls).parameters
    options = {option: one.default for option, one in shown.items()}
    if name == "SpdkThread":
        options["lib"] = spdkthread.ThreadLib()
    made = cls(**options)
    with pytest.raises(TypeError):
        cls(not_an_option=1)
    if name == "SpdkThread":
        with made:
            made.exit()
        made.poll()


def has_entry(cls: type, member: str) -> bool:
    """Whether the class has the member among its attributes, or a string behind the field of a dataclass."""
    if re.search(rf"^ *(?:\w+, )*{member}(?:, \w+)* : ", cls.__doc__ or "", re.M):
        return True
    return dataclasses.is_dataclass(cls) and bool(
        re.search(rf'^    {member}: .*\n    """', inspect.getsource(cls), re.M)
    )


def test_every_public_name_and_member_has_a_docstring_in_its_stub_or_when_compiled():
    stubs = {}
    for stub in PACKAGE.rglob("*.pyi"):
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef):
                        stubs[node.name, member.name] = ast.get_docstring(member)
    without = []
    for name, one in PUBLIC.items():
        if inspect.isclass(one):
            without += [
                f"{name}.{member}"
                for member in members(one)
                if not (getattr(vars(one)[member], "__doc__", None) or stubs.get((one.__name__, member)))
                and not has_entry(one, member)
            ]
        if callable(one) and not (one.__doc__ or "").strip():
            without.append(name)
    assert without == []


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("*.pyi")), ids=lambda stub: stub.stem)
def test_an_installed_stub_has_the_docstrings_of_its_source(stub):
    source = stub.with_suffix(".pyx").read_text(encoding="utf-8")
    text = documented(stub.read_text(encoding="utf-8"), source)
    assert documented(text, source) == text
    found = docstrings(source)
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            assert (ast.get_docstring(node) or "") == found.get(node.name, ast.get_docstring(node) or "")
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and f"{node.name}.{member.name}" in found:
                    decorators = [ast.unparse(one) for one in member.decorator_list]
                    assert ast.get_docstring(member) or any("setter" in one for one in decorators), member.name


def test_docstrings_are_those_that_help_shows():
    found = docstrings((PACKAGE / "thread.pyx").read_text(encoding="utf-8"))
    assert found["SpdkThread"] == inspect.getdoc(spdkthread.SpdkThread)
    for name in ("send_msg", "try_send_msg", "poll", "call"):
        assert found[f"SpdkThread.{name}"] in inspect.getdoc(getattr(spdkthread.SpdkThread, name))


def test_the_typing_programs_use_every_public_name_and_member():
    tree = ast.parse("\n".join(PROGRAMS.values()))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    without = {name for name in (one.rpartition(".")[2] for one in PUBLIC) if name not in used}
    for name in CLASSES:
        if PUBLIC[name] is not aio.EventLoop:  # asyncio's interface
            without |= {f"{name}.{member}" for member in members(PUBLIC[name]) if member not in used}
    assert sorted(without) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_typing_programs_run(name):
    finished = run_python(PROGRAMS[name])
    assert finished.returncode == 0, finished.stderr
    assert f"{name} used" in finished.stdout
