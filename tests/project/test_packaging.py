"""What is shipped, what is importable, and what an import costs."""

import importlib.metadata
from pathlib import Path

import pytest
from support import run_python

import spdkthread

pytestmark = [
    pytest.mark.no_sanitizer(
        reason="compiles, installs or measures the library itself, or needs more memory than a sanitizer leaves"
    ),
    pytest.mark.no_coverage(reason="compiles the library"),
]

PACKAGE = Path(spdkthread.__file__).parent
PUBLIC = [
    "TICKS_HZ",
    "DeviceError",
    "NoThreadError",
    "Poller",
    "Reactor",
    "ReactorError",
    "ReactorStats",
    "RingFullError",
    "RingFullTimeoutError",
    "ShutdownReport",
    "SpdkThread",
    "SpdkThreadError",
    "ThreadExitedError",
    "ThreadLib",
    "ThreadStats",
    "WrongThreadError",
    "__version__",
    "default_lib",
    "for_each_thread",
    "get_thread",
    "ticks",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_importable_from_the_package(name):
    assert hasattr(spdkthread, name)
    assert name in spdkthread.__all__


def test_the_package_promises_nothing_that_it_does_not_have():
    assert [name for name in spdkthread.__all__ if not hasattr(spdkthread, name)] == []
    assert sorted(set(spdkthread.__all__)) == sorted(spdkthread.__all__)


def test_a_star_import_works():
    namespace = {}
    exec("from spdkthread import *", namespace)
    assert set(spdkthread.__all__) <= set(namespace)


def test_importing_the_package_does_not_import_numpy():
    done = run_python("import sys, spdkthread; print('numpy' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_importing_the_package_does_not_import_asyncio():
    done = run_python("import sys, spdkthread, spdkthread.aio; print('asyncio' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_running_threads_does_not_import_asyncio():
    done = run_python(
        """
import sys, spdkthread
with spdkthread.Reactor() as reactor:
    thread = reactor.create_thread()
    print(thread.call(abs, -1).result())
    with thread.executor() as executor:
        print(executor.submit(abs, -2).result())
print("asyncio" in sys.modules)
"""
    )
    assert done.stdout == "1\n2\nFalse\n", done.stderr


def test_four_threads_can_import_the_package_at_once():
    done = run_python(
        """
import threading
barrier, failures = threading.Barrier(4), []
def work():
    barrier.wait()
    try:
        import spdkthread.aio
        spdkthread.Reactor, spdkthread.aio.EventLoop
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failures)
"""
    )
    assert done.stdout == "[]\n", done.stderr


def test_running_threads_does_not_import_numpy():
    done = run_python(
        """
import sys, spdkthread
with spdkthread.Reactor() as reactor:
    thread = reactor.create_thread()
    print(thread.call(abs, -1).result())
print("numpy" in sys.modules)
"""
    )
    assert done.stdout == "1\nFalse\n", done.stderr


def test_importing_the_package_starts_no_os_thread():
    done = run_python("import threading, spdkthread; print(threading.active_count())")
    assert done.stdout == "1\n", done.stderr


def test_the_version_is_the_one_of_the_package():
    assert spdkthread.__version__
    assert all(part.isdigit() for part in spdkthread.__version__.split(".")[:2])


def test_every_module_ships_its_declarations():
    sources = sorted([*PACKAGE.glob("*.pyx"), *(PACKAGE / "aio").glob("*.pyx")])
    assert sources
    assert [source.name for source in sources if not source.with_suffix(".pxd").exists()] == []


def test_the_package_can_be_cimported():
    assert (PACKAGE / "__init__.pxd").exists()


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
    public = ["clock", "lib", "poller", "reactor", "ring", "thread", "thread_iteration", "timers"]
    assert [name for name in public if not (PACKAGE / f"{name}.pyi").exists()] == []


@pytest.mark.parametrize("name", [name for name in PUBLIC if name[0].isupper() and name != "TICKS_HZ"])
def test_every_public_class_says_what_it_is(name):
    assert (getattr(spdkthread, name).__doc__ or "").strip()


@pytest.mark.parametrize("kind", ["SpdkThread", "Poller", "ThreadLib", "Reactor"])
def test_every_public_method_says_what_it_does(kind):
    cls = getattr(spdkthread, kind)
    members = [name for name, member in vars(cls).items() if not name.startswith("_") and callable(member)]
    assert members
    assert [name for name in members if not (getattr(cls, name).__doc__ or "").strip()] == []


def test_the_documented_errors_are_those_of_the_errors_module():
    from spdkthread import errors

    for name in errors.__all__:
        assert getattr(spdkthread, name) is getattr(errors, name)


def test_the_metadata_names_the_runtime_dependency():
    try:
        requires = importlib.metadata.requires("spdkthread") or []
    except importlib.metadata.PackageNotFoundError:
        requires = (PACKAGE.parent / "pyproject.toml").read_text().splitlines()
    assert any("numpy" in line for line in requires)


def test_threads_that_import_the_package_for_the_first_time_at_once_all_get_it():
    """Each imports another module of it: none may wait for what another one holds."""
    for _ in range(8):
        done = run_python(
            """
import importlib, sys, threading

sys.setswitchinterval(1e-6)
names = ["spdkthread", "spdkthread.aio", "spdkthread.group", "spdkthread.testing"]
start = threading.Barrier(len(names))
fine = []

def use(name):
    start.wait()
    importlib.import_module(name)
    import spdkthread
    spdkthread.SpdkThread, spdkthread.Reactor, spdkthread.ReactorGroup
    fine.append(name)

threads = [threading.Thread(target=use, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(fine))
"""
        )
        assert (done.stdout.split(), done.stderr) == (["4"], "")


def test_a_source_tree_that_is_not_built_says_so(tmp_path):
    package = tmp_path / "spdkthread"
    package.mkdir()
    for source in Path(spdkthread.__file__).parent.glob("*.py*"):
        if source.suffix in (".py", ".pyx", ".pyi"):
            (package / source.name).write_bytes(source.read_bytes())
    done = run_python(
        f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
try:
    import spdkthread
except ImportError as error:
    print(error)
try:
    from spdkthread.aio import EventLoop
except ImportError as error:
    print(error)
"""
    )
    first, second = done.stdout.splitlines()
    assert "no extension modules" in first
    assert "make build" in first
    assert str(package) in first
    assert second == first


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        spdkthread.no_such_name  # noqa: B018
    assert set(spdkthread.__all__) <= set(dir(spdkthread))
    assert spdkthread.stats.ThreadStats is spdkthread.ThreadStats
