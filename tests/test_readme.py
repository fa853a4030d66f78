"""The complete programs of the README run."""

import re
import sys
from pathlib import Path

import pytest
from support import run_python

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = [
    block
    for block in re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if block.startswith(("import ", "from "))
]
# asyncio.run took no loop_factory before.
OLDER = """
import asyncio
def run(main, *, loop_factory=None):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)
asyncio.run = run
"""


def test_each_way_to_wait_for_a_result_has_a_program():
    text = "\n".join(PROGRAMS)
    for name in (".call(", ".acall(", "executor()", ".spawn(", "sleep_us", "switch_to", "fd_ready", "device.channel()"):
        assert name in text
    assert "asyncio.run(main(), loop_factory=EventLoop)" in text


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_readme_runs(number):
    finished = run_python((OLDER if sys.version_info < (3, 12) else "") + PROGRAMS[number])
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout
    assert not finished.stderr
