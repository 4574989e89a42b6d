"""Check whether a client may send mail for a domain (SPF, RFC 7208), with pyspf."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .resolver import Lookups

__all__ = ["Client", "SPFResult", "check_client", "read_client"]

# The whole line that Postal writes: from the name in HELO (the name in DNS [the
# address]) by its own name. The client chooses the first two. If one of them contains
# brackets, the address can't be told from the client's text, and the line is not used.
_NAME = r"[^\s()\[\]]{0,255}"
_RECEIVED = re.compile(
    rf"Received: from ({_NAME}) \((?:{_NAME} )?\[([0-9A-Fa-f.:]{{3,45}})\]\)"
    rf" by {_NAME} with [A-Z]{{4,8}}; ([^()\[\]]{{1,60}})"
)


@dataclass(frozen=True, slots=True)
class Client:
    """The client that has brought a mail to Postal.

    :param helo: The name that it has given.
    :param address: Its IP address.
    :param date: When that was, as Postal writes it.
    """

    helo: str
    address: str
    date: str = ""


@dataclass(frozen=True, slots=True)
class SPFResult:
    """Whether a client may send for the domain of an envelope.

    :param domain: That of MAIL FROM, or of HELO for a mail without a sender.
    :param result: ``pass``, ``fail``, ``softfail``, ``neutral``, ``none``,
        ``permerror`` or ``temperror``.
    :param address: The IP address of the client.
    """

    domain: str
    result: str
    address: str


def read_client(received: str) -> Client | None:
    """Read the line that Postal has added; ``None`` if it tells no client.

    :param received: The first line of the header, as the mail has it.
    """
    found = _RECEIVED.fullmatch(received)
    return Client(found[1], found[2], found[3]) if found else None


def envelope_domain(sender: str | None, client: Client) -> str:
    """Return the domain that is asked, in lower case."""
    domain = (sender or "").rpartition("@")[2] or client.helo
    return domain.lower().rstrip(".")


def check_client(client: Client, sender: str | None, lookups: Lookups) -> SPFResult:
    """Ask the domain of an envelope whether a client may send for it.

    :param sender: The envelope sender; ``None`` for the null sender.
    """
    import spf

    class Query(spf.query):  # type: ignore[misc]
        """Query that uses our resolver, with pyspf's limits."""

        def dns(
            self,
            name: str,
            kind: str,
            cnames: Any = None,
            ignore_void: bool = False,  # noqa: FBT001, FBT002 - pyspf's signature
        ) -> list[Any]:
            try:
                records = lookups(str(name), kind)
            except OSError as error:
                raise spf.TempError(str(error)) from None
            if not records and not ignore_void:
                self.void_lookups += 1
                if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                    raise spf.PermError("too many names without a record")
            return [_as_pyspf_has_it(record, kind) for record in records]

    try:
        query = Query(i=client.address, s=sender or "", h=client.helo)
        result, _, _ = query.check()
    except Exception:  # noqa: BLE001
        # Strangers write the envelope and the records, and pyspf raises ValueError,
        # IndexError and more for some of them.
        result = "permerror"
    return SPFResult(envelope_domain(sender, client), result, client.address)


def _as_pyspf_has_it(record: str, kind: str) -> Any:
    if kind in ("TXT", "SPF"):
        return (record.encode("latin-1", "replace"),)
    if kind == "MX":
        preference, _, name = record.partition(" ")
        return (int(preference), name)
    return record
