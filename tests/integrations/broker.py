"""A Redis to queue tasks in."""

from __future__ import annotations

import subprocess

from ..processes import free_port, needed, wait_for


class Broker:
    """A Redis that keeps nothing on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(needed("redis-server"), "--port", str(self.port), "--save", ""),
                *("--bind", "127.0.0.1", "--appendonly", "no"),
            ],
            stdout=subprocess.DEVNULL,
            text=True,
        )
        wait_for(self.port, self._process)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
