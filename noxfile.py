"""Checks that a contributor and CI run alike: ``nox --list`` shows them.

``.ci/run`` calls these sessions in a fresh clone. No session needs another one, so each
can be run alone, for instance ``nox -s tests-3.12``.
"""

from __future__ import annotations

import os
import re
import shutil
from itertools import chain
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "docs", "tests"]

ROOT = Path(__file__).parent
EXTRAS = nox.project.load_toml(ROOT / "pyproject.toml")["project"][
    "optional-dependencies"
]
# Sessions that need a tool of the extra "dev" without the extra's other packages
# install it by these requirements, so that its lowest version stands in one place.
TOOLS = {re.split(r"[^\w-]", line, maxsplit=1)[0]: line for line in EXTRAS["dev"]}

# The tests with a browser, servers of databases, chaos and other packages take long, or
# don't depend on the versions of Python and Flask: they run once, on 3.11.
SLOW = ("tests/browser", "tests/ledger/chaos", "tests/packages")
NOT_SLOW = [*(f"--ignore={folder}" for folder in SLOW), "-m", "not slow and not soak"]
NO_SERVERS = {"FLASK_POSTAL_DATABASES": "sqlite"}


def run_pytest(session: nox.Session, *options: str) -> None:
    """Run the tests; what follows ``--`` on the command line goes to pytest."""
    session.run(
        *("python", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *options,
        *session.posargs,
        env=NO_SERVERS if set(NOT_SLOW) <= set(options) else None,
    )


def show_versions(session: nox.Session, *names: str) -> None:
    """Print which versions of Python and of some packages a session tests."""
    code = "import sys; from importlib.metadata import version; print(sys.version)\n"
    code += "for name in sys.argv[1:]: print(name, version(name))"
    session.run("python", "-c", code, *names)


def empty_folder(session: nox.Session) -> Path:
    """Return a folder of the session's own, emptied.

    Not ``session.create_tmp()``, which also moves the temporary files of the tests.
    """
    folder = session.cache_dir.resolve() / session.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def build(session: nox.Session, folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it; any warning is an error."""
    session.install(TOOLS["build"])
    output = session.run(
        *("python", "-W", "error", "-m", "build", "--outdir", str(folder), str(ROOT)),
        silent=True,
        # Where this is set, setuptools warns that it compiles nothing.
        env={"PYTHONDONTWRITEBYTECODE": None},
    )
    warnings = re.findall(r"(?im)^.*(?:warning|deprecat).*$", str(output))
    if warnings:
        session.error("the build warns:\n" + "\n".join(warnings))
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    session.log("built %s and %s", sdist.name, wheel.name)
    return sdist, wheel


def wheel_alone(session: nox.Session, folder: Path, *extras: str) -> str:
    """Install the wheel into an environment of its own; return that one's Python."""
    _, wheel = build(session, folder)
    session.run("python", "-m", "venv", str(folder / "venv"))
    python = str(folder / "venv" / "bin" / "python")
    session.run(
        *(python, "-m", "pip", "install", "--quiet", str(wheel), *extras),
        external=True,
        silent=True,
    )
    return python


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, which module imports which, and overly complex functions."""
    session.install(*(TOOLS[name] for name in ("ruff", "import-linter", "radon")))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")
    # D is a cyclomatic complexity over 20.
    complex_ones = session.run("radon", "cc", "-n", "D", "flask_postal", silent=True)
    if str(complex_ones).strip():
        session.error(f"too complex, split them:\n{complex_ones}")


@nox.session
def types(session: nox.Session) -> None:
    """mypy in strict mode, and pyright on the public names of the installed wheel."""
    session.install("--editable", ".[tests]", TOOLS["mypy"], TOOLS["pyright"])
    session.run("mypy", "--strict", "flask_postal", "example_app", "tests")
    folder = empty_folder(session)
    # What public classes are derived from must be there.
    extras = [EXTRAS[name] for name in ("ledger", "security")]
    python = wheel_alone(session, folder, *chain.from_iterable(extras))
    session.chdir(folder)  # flask_postal of the checkout must not be found
    # pyright looks for packages where the first Python of PATH has them, which is the
    # session's own; --pythonpath has no effect together with --verifytypes.
    path = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
    output = session.run(
        *("env", f"PATH={path}", str(Path(session.bin) / "pyright")),
        *("--verifytypes", "flask_postal", "--ignoreexternal"),
        external=True,
        silent=True,
    )
    if "Type completeness score: 100%" not in str(output):
        session.error(f"the types of some public names are not known:\n{output}")
    session.log("pyright knows the types of all public names")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html; any warning is an error."""
    session.install("--editable", ".[docs]")
    session.run(
        *("sphinx-build", "-q", "--fail-on-warning", "--keep-going", "--fresh-env"),
        *("--builder", "html", "docs", "docs/_build/html"),
    )


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel without a warning, and try the wheel alone."""
    folder = empty_folder(session)
    python = wheel_alone(session, folder, *EXTRAS["ledger"])
    session.chdir(folder)
    session.run(python, "-W", "error", str(ROOT / ".ci" / "smoke.py"), external=True)


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The tests; on 3.11 those that use a browser as well."""
    session.install("--editable", ".[tests]")
    run_pytest(session, *([] if session.python == "3.11" else NOT_SLOW))


@nox.session
def coverage(session: nox.Session) -> None:
    """All tests, with the lines and branches that none of them reaches."""
    session.install("--editable", ".[tests]")
    run_pytest(session, "--cov", "--cov-report=term:skip-covered")


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The tests with the lowest versions that pyproject.toml allows."""
    # Without the packages of tests/packages, which want a newer Flask.
    session.install("--constraint", ".ci/lowest.txt", "--editable", ".[core-tests]")
    show_versions(session, "Flask", "requests", "cryptography", "blinker")
    run_pytest(session, *NOT_SLOW)


@nox.session
def newest(session: nox.Session) -> None:
    """The tests with the newest Flask and Werkzeug, pre-releases included."""
    session.install("--editable", ".[tests]")
    session.install("--upgrade", "--pre", "Flask", "Werkzeug")
    show_versions(session, "Flask", "Werkzeug")
    run_pytest(session, *NOT_SLOW)


@nox.session
def sdist(session: nox.Session) -> None:
    """The tests of the unpacked sdist, against the package installed from it."""
    folder = empty_folder(session)
    archive, _ = build(session, folder)
    # --force-reinstall: the version is the same as in the last run of this session.
    session.install("--force-reinstall", "--no-deps", str(archive))
    session.install(f"{archive}[tests]")
    shutil.unpack_archive(archive, folder)
    [tree] = folder.glob("flask_postal-*/")
    # The tests and the processes that they start have the unpacked tree on their path,
    # before site-packages. Without its flask_postal they import the installed one.
    unpacked = (tree / "flask_postal").rename(folder / "flask_postal")
    session.chdir(tree)
    code = "import flask_postal; print(*flask_postal.__path__)"
    output = session.run("python", "-c", code, silent=True)
    installed = Path(str(output).strip())
    if installed.parent.name != "site-packages":
        session.error(f"not the installed package: {installed}")
    session.log("the tests import %s", installed)
    # Nothing of the package was left out, which the tests can't see any more.
    session.run(
        *("diff", "--recursive", "--exclude=__pycache__"),
        *(str(unpacked), str(installed)),
        external=True,
    )
    run_pytest(session, *NOT_SLOW)
