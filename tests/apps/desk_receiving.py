"""The help desk, whose receivers die between any two of their statements.

Run as ``python -m tests.apps.desk_receiving URL SEED EVENTS FOLDER``; see
:mod:`.dying`. The events are mails; each author writes five of them, so that workers
add a contact at the same time.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask

from example_app import create_app, postal
from example_app.models import db
from flask_postal import VerifiedRequest
from flask_postal.sandbox import SandboxDNS
from flask_postal.testing import resolving_with

from .dying import Crew, maybe_die, run_workers

#: In how many statements the process dies. One attempt to handle a mail takes about 40
#: of them.
ODDS = 60


def make_app(url: str, folder: Path) -> Flask:
    """Create the help desk."""
    return create_app(
        {
            "SQLALCHEMY_DATABASE_URI": url,
            "POSTAL_RELAY": "process",
            "POSTAL_SUPPRESS_SEND": True,
            "POSTAL_TIMEOUT": 0.5,
            "POSTAL_LEASE": 2,
            "POSTAL_BACKOFF": (0.05, 0.2),
        },
        instance_path=str(folder),
    )


def make_dying_app(url: str, folder: Path) -> Flask:
    """Create it so that it dies at times."""
    app = make_app(url, folder)
    with app.app_context():

        @sa.event.listens_for(db.engine, "before_cursor_execute")
        def on_statement(*arguments: Any) -> None:
            maybe_die(ODDS)

    return app


def request_of(number: int, worker: int) -> VerifiedRequest:
    """The mail with a number."""
    author = f"a{number // 5}@example.net"
    raw = f"From: {author}\r\nMessage-ID: <{number}@x.y>\r\n\r\nHi"
    mail = {
        "id": number,
        "rcpt_to": "help@example.com",
        "mail_from": author,
        "message": b64encode(raw.encode()).decode(),
        "base64": True,
        "size": len(raw),
    }
    return VerifiedRequest("inbound", json.dumps(mail).encode())


if __name__ == "__main__":
    url, seed, events, given = sys.argv[1:]
    folder = Path(given)
    crew = Crew(
        lambda: (make_dying_app(url, folder), postal),
        request_of,
        seed=int(seed),
        events=int(events),
        folder=folder,
    )
    with resolving_with(SandboxDNS()):
        print(run_workers(crew))
