"""The complete programs of the README run."""

import re
from pathlib import Path

import pytest
from support import run_python

README = Path(__file__).parents[2] / "README.md"
PROGRAMS = [
    block
    for block in re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if block.startswith(("import ", "from "))
]


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_readme_runs(number):
    finished = run_python(PROGRAMS[number])
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout
    assert not finished.stderr
