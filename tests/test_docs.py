"""README and docs: every block of Python runs, and the commands are as promised."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flask_postal.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Its blocks are the files of a project.
PROJECT = ROOT / "docs" / "testing.md"
WITH_CODE = [
    page for page in PAGES if page != PROJECT and BLOCK.search(page.read_text())
]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_code_blocks_run(
    page: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page run in order, in one namespace, with a sandbox's settings
    in the environment."""
    for key, value in sandbox.settings().items():
        if value is not None:
            monkeypatch.setenv(f"FLASK_{key}", value)
    namespace = {"__name__": "example", "__file__": str(page)}
    text = page.read_text()
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], str(page), "exec")
        exec(code, namespace)


def test_the_project_of_the_testing_page_passes(pytester: pytest.Pytester) -> None:
    for block in BLOCK.finditer(PROJECT.read_text()):
        name, _, code = block[1].partition("\n")
        (pytester.path / name.removeprefix("# ")).write_text(code)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=6)


def test_readme_has_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "example_app" in commands[0]
    assert "pytest" in commands[1]
