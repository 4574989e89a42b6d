from __future__ import annotations

import ast
import configparser
import subprocess
import sys
import tomllib
from pathlib import Path

import flask_postal

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_lowest_pins_match_the_minimum_versions_in_pyproject() -> None:
    floors = [d.replace(">=", "==") for d in PYPROJECT["project"]["dependencies"]]
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == floors
    assert len(floors) == 4


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    # This is the folder of the checkout, or the installed package where the tests of
    # the sdist run; "nox -s sdist" compares that one with the content of the sdist.
    package = Path(flask_postal.__file__).parent
    folders = {path.parent for path in package.rglob("__init__.py")}
    found = {".".join(folder.relative_to(package.parent).parts) for folder in folders}
    assert set(listed) == found
    assert listed == sorted(listed)


def test_public_names_are_sorted_and_exist() -> None:
    names = flask_postal.__all__
    assert names == sorted(names)
    assert all(hasattr(flask_postal, name) for name in names)


def test_starting_an_app_imports_neither_requests_nor_cryptography() -> None:
    code = (
        "import sys, flask, flask_postal; app = flask.Flask('x');"
        "app.config.update(POSTAL_API_URL='http://127.0.0.1', POSTAL_API_KEY='k');"
        "app.register_blueprint(flask_postal.Postal(app).blueprint);"
        "print(sorted({'requests', 'cryptography', 'urllib3'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_function_is_longer_than_a_screen() -> None:
    """Docstrings aside: 50 lines."""
    too_long = [
        f"{path.name}: {node.name}"
        for path in Path(flask_postal.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno - docstring_lines(node) >= 50
    ]
    assert too_long == []


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return 0
    return (first.end_lineno or 0) - first.lineno + 1
