"""README and docs: all Python code blocks run, and the commands work."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import flask_postal
from flask_postal.sandbox import Sandbox

from .processes import free_port, wait_for

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Pages whose code blocks are the files of a project, and its number of tests.
PROJECTS = {"testing.md": 11, "registration-to-invoice.md": 4}
WITH_CODE = [
    page
    for page in PAGES
    if page.name not in PROJECTS and BLOCK.search(page.read_text())
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
    with receivers_restored():
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start(1))
            code = compile("\n" * line + block[1], str(page), "exec", dont_inherit=True)
            exec(code, namespace)


@contextlib.contextmanager
def receivers_restored() -> Iterator[None]:
    """Disconnect what the blocks of a page connect to signals."""
    names = importlib.import_module("flask_postal.signals").__all__
    all_signals = [getattr(flask_postal, name) for name in names]
    before = [set(signal.receivers) for signal in all_signals]
    try:
        yield
    finally:
        for signal, known in zip(all_signals, before, strict=True):
            for number in set(signal.receivers) - known:
                found = signal.receivers[number]
                signal.disconnect(found() if isinstance(found, weakref.ref) else found)


@pytest.mark.parametrize("name", PROJECTS)
def test_the_project_of_a_page_passes_its_tests(
    pytester: pytest.Pytester, name: str
) -> None:
    for block in BLOCK.finditer((ROOT / "docs" / name).read_text()):
        file, _, code = block[1].partition("\n")
        (pytester.path / file.removeprefix("# ")).write_text(code)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=PROJECTS[name])


def test_the_quick_start_leads_to_an_event(tmp_path: Path) -> None:
    """Run the app and the commands of the page, on free ports."""
    text = (ROOT / "docs" / "quickstart.md").read_text()
    block = BLOCK.search(text)
    assert block
    (tmp_path / "app.py").write_text(block[1])
    app_port, sandbox_port = free_port(), free_port()
    flask = [sys.executable, "-m", "flask"]
    for command in ("flask postal sandbox", "flask run --debug"):
        assert f".venv/bin/{command}\n" in text
    sandbox = background(
        tmp_path,
        *(*flask, "postal", "sandbox", "--port", str(sandbox_port)),
        *("--app-url", f"http://127.0.0.1:{app_port}"),
    )
    app = None
    try:
        exports = dict(
            re.findall(r"export (FLASK_\w+)=(\S+)", read_until(sandbox, "Ctrl-C"))
        )
        assert len(exports) == 3
        app = background(
            tmp_path,
            *(*flask, "run", "--debug", "--no-reload", "--port", str(app_port)),
            **exports,
        )
        wait_for(app_port, app)
        for name in ("ana", "bounced"):
            address = f"http://127.0.0.1:{app_port}/welcome/{name}@example.com"
            assert requests.post(address, timeout=10).json()["id"]
        told = read_until(app, "bounced@example.com bounced")
        assert "ana@example.com delivered" in told
        page = requests.get(f"http://127.0.0.1:{sandbox_port}/", timeout=5).text
        assert "bounced@example.com" in page
    finally:
        for process in filter(None, (sandbox, app)):
            process.terminate()
            process.communicate(timeout=20)


def background(
    folder: Path, *command: str, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(seen)


def test_readme_has_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert "example_app" in commands[0]
    assert "pytest" in commands[1]


NAMES = re.findall(
    r"^\.\. auto(?:class|function|data|exception):: (\S+)",
    (ROOT / "docs" / "api.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize("name", NAMES)
def test_documented_names_can_be_imported(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    "module",
    [
        "flask_postal",
        "flask_postal.ledger",
        "flask_postal.sandbox",
        "flask_postal.testing",
    ],
)
def test_the_api_page_shows_all_public_names(module: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    errors = importlib.import_module("flask_postal.errors").__all__
    assert "automodule:: flask_postal.errors" in text
    shown = {*NAMES, *(f"flask_postal.{error}" for error in errors)}
    public = importlib.import_module(module).__all__
    assert {f"{module}.{name}" for name in public} <= shown
