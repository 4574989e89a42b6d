"""Recorded traffic of a real Postal, from ``tests/data/captures``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

CAPTURES = Path(__file__).parent / "data" / "captures"
DKIM_RECORD = (CAPTURES / "default-dkim-record.txt").read_text()
PUBLIC_KEY_P = (CAPTURES / "public_key_p.txt").read_text()
JWKS = json.loads((CAPTURES / "jwks.json").read_text())
KID = JWKS["keys"][0]["kid"]
KEY1024_DKIM_RECORD = (CAPTURES / "key1024-default-dkim-record.txt").read_text()
#: The headers of a signature, with the spelling of the recordings.
SHA256 = "X-Postal-Signature-256"
SHA1 = "X-Postal-Signature"
KID_HEADER = "X-Postal-Signature-Kid"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded request with its signature, byte for byte."""

    path: str
    headers: dict[str, str]
    body: bytes

    @classmethod
    def load(cls, name: str) -> Recorded:
        """Load a request such as ``"webhooks/MessageSent"``."""
        about = json.loads((CAPTURES / f"{name}.headers.json").read_text())
        body = (CAPTURES / f"{name}.body").read_bytes()
        return cls(about["path"], about["headers"], body)

    def without(self, *names: str) -> dict[str, str]:
        """Return the headers except for some."""
        dropped = {name.lower() for name in names}
        return {k: v for k, v in self.headers.items() if k.lower() not in dropped}

    def post(self, client: FlaskClient, **changes: Any) -> TestResponse:
        """Post the request as it was, or with another body, headers or path."""
        values = {
            "path": self.path,
            "headers": self.headers,
            "data": self.body,
            **changes,
        }
        return client.post(values.pop("path"), **values)


def api_capture(name: str) -> dict[str, Any]:
    """Load a request to the API and its response."""
    content: dict[str, Any] = json.loads(
        (CAPTURES / "api" / f"{name}.json").read_text()
    )
    return content


def flip_bit(data: bytes, at: int = -20) -> bytes:
    """Change one bit."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)
