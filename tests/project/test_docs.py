"""The programs of the documentation run.

A block of Python that begins with an import begins a program; blocks that do not go on from the one before them.
"""

import re
from pathlib import Path

import pytest
from support import run_python

import spdkthread.aio
import spdkthread.testing

pytestmark = pytest.mark.no_sanitizer(
    reason="compiles, installs or measures the library itself, or needs more memory than a sanitizer leaves"
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def programs(page: Path) -> list[str]:
    """The programs of a page; in the tutorial every block goes on from those before it."""
    found: list[str] = []
    for block in blocks(page):
        begins = block.startswith(("import ", "from ")) and not (found and page.name == "tutorial.md")
        if begins:
            found.append(block)
        else:
            assert found, f"{page} has code that goes on from nothing"
            found[-1] += block
    return found


PROGRAMS = [
    pytest.param(program, id=f"{page.relative_to(DOCS)}:{number}")
    for page in PAGES
    for number, program in enumerate(programs(page), 1)
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_documentation_runs(program):
    finished = run_python(program)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout or "assert" in program
    # What a program shows on purpose is logged.
    assert "Traceback" not in finished.stderr


def test_each_way_to_wait_for_a_result_has_a_program():
    text = "\n".join(program for page in PAGES for program in programs(page))
    for name in (".call(", ".acall(", "executor()", ".spawn(", "sleep_us", "switch_to", "fd_ready", "device.channel()"):
        assert name in text
    assert "Runner(loop_factory=EventLoop)" in text


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_to_files_of_the_tree_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_example_that_is_named_is_there():
    named = {
        name
        for page in [ROOT / "README.md", *PAGES]
        for name in re.findall(r"`examples/([\w/]+\.\w+)`", page.read_text())
    }
    table = (ROOT / "README.md").read_text().partition("## I want to")[2].partition("\n## ")[0]
    named |= set(re.findall(r"`(\w+\.py)`", table))
    assert sorted(name for name in named if not (ROOT / "examples" / name).exists()) == []


def test_the_reference_has_every_public_name():
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^\.\. auto\w+:: (?:\w+\.)*(\w+)$", pages, re.MULTILINE))
    public = {*spdkthread.__all__, *spdkthread.aio.__all__, *spdkthread.testing.__all__}
    assert sorted(public - named) == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
