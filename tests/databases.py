"""Databases in processes of their own, on loopback and in folders of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from .processes import free_port, needed

__all__ = [
    "DATABASES",
    "DatabaseServer",
    "empty_database",
    "mariadb",
    "postgresql",
]

DATABASES = ("sqlite", "postgresql", "mariadb")


class DatabaseServer:
    """A server in a process of its own, which can be stopped and started again.

    :param url: The URL of a database that it always has.
    """

    def __init__(
        self,
        command: list[str],
        url: str,
        folder: Path,
        *,
        user: str | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.url = url
        self._command = command
        self._folder = folder
        self._user = user
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[DatabaseServer]:
        """Run it for the length of a block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self._folder / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self._user,
                cwd=self._folder,
            )
        self._process = process
        engine = sa.create_engine(self.url, poolclass=sa.pool.NullPool)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with engine.connect():
                    return
            except sa.exc.OperationalError:
                time.sleep(0.1)
        self.stop()
        pytest.fail(f"{self.url} does not come up: {log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        if self._process is not None:
            self._process.send_signal(self._stop_signal)
            self._process.wait(60)
            self._process = None


def _postgres(program: str) -> str:
    """Debian keeps the programs of each version in a folder of their own."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / program).exists():
            return str(folder / program)
    return needed(program)


@contextlib.contextmanager
def postgresql(folder: Path, *, fsync: bool = False) -> Iterator[DatabaseServer]:
    """Run PostgreSQL, which refuses to run as root.

    :param fsync: Whether commits wait for the disk, as they do by default. Tests do
        without it, to be faster.
    """
    port, data = free_port(), folder / "data"
    user = "postgres" if os.getuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    subprocess.run(
        [_postgres("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N"],
        user=user,
        cwd=folder,
        check=True,
        capture_output=True,
    )
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": folder,
        "max_connections": 200,
        "fsync": "on" if fsync else "off",
    }
    command = [_postgres("postgres"), "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    # A SIGTERM would wait until every connection is closed.
    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    with DatabaseServer(
        command, url, folder, user=user, stop_signal=signal.SIGINT
    ).running() as server:
        yield server


@contextlib.contextmanager
def mariadb(folder: Path) -> Iterator[DatabaseServer]:
    """Run MariaDB with its default settings."""
    port, data = free_port(), folder / "data"
    subprocess.run(
        [
            needed("mariadb-install-db"),
            *("--no-defaults", f"--datadir={data}", "--user=root"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
        ],
        check=True,
        capture_output=True,
    )
    command = [
        needed("mariadbd"),
        *("--no-defaults", f"--datadir={data}", f"--port={port}", "--user=root"),
        *("--bind-address=127.0.0.1", f"--socket={folder}/socket"),
        f"--pid-file={folder}/pid",
    ]
    url = f"mysql+pymysql://root@127.0.0.1:{port}/mysql?charset=utf8mb4"
    with DatabaseServer(command, url, folder).running() as server:
        yield server


@contextlib.contextmanager
def empty_database(server: str, name: str) -> Iterator[str]:
    """Create a database on a server for the length of a block; yields its URL."""
    engine = sa.create_engine(
        server, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
    )
    url = engine.url.set(database=name)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        force = " WITH (FORCE)" if url.get_backend_name() == "postgresql" else ""
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}{force}")
