"""The sandbox's API faults, as an app that sends messages sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from flask_postal import APIError, Message, Postal, SendError, TransportError
from flask_postal.sandbox import Fault, ManualClock, Sandbox, SigningKey
from flask_postal.sandbox.faults import API_FAULTS

from .conftest import MakeApp


@pytest.fixture
def app(make_app: MakeApp, signing_key: SigningKey) -> Iterator[tuple[Postal, Sandbox]]:
    with Sandbox(key=signing_key, clock=ManualClock()) as sandbox:
        app, postal = make_app(**sandbox.settings(), POSTAL_TIMEOUT=(1, 0.3))
        with app.app_context():
            yield postal, sandbox


def send(postal: Postal) -> object:
    return postal.send(Message("Hi", "a@b.c", body="x", sender="d@e.f"))


@pytest.mark.parametrize(
    ("fault", "error", "text", "maybe_sent", "stored"),
    [
        ("500", APIError, "Postal failed", True, 0),
        ("502", APIError, "answered HTTP 502", True, 0),
        ("403", APIError, "Host not allowed by this Postal", False, 0),
        ("suspended", APIError, "ServerSuspended", False, 0),
        ("hang", TransportError, "timed out", True, 0),
        ("reset", TransportError, "may have queued the message", True, 0),
        ("reset-stored", TransportError, "reset", True, 1),
        ("late-store", TransportError, "reset", True, 0),
        ("partial", APIError, "Postal failed", True, 1),
        ("truncated", TransportError, "Postal may have queued the message", True, 1),
    ],
)
def test_an_api_fault_raises_the_expected_error(
    app: tuple[Postal, Sandbox],
    fault: str,
    error: type[SendError],
    text: str,
    maybe_sent: bool,
    stored: int,
) -> None:
    postal, sandbox = app
    sandbox.fault(fault, times=1)
    with pytest.raises(error, match=text) as caught:
        send(postal)
    assert caught.value.maybe_sent is maybe_sent
    assert len(sandbox.messages) == stored
    # The next message is sent.
    assert send(postal)
    assert len(sandbox.messages) == stored + 1


def test_a_message_is_stored_ten_seconds_after_its_connection_was_reset(
    app: tuple[Postal, Sandbox],
) -> None:
    postal, sandbox = app
    sandbox.fault("late-store", times=1)
    with pytest.raises(TransportError):
        send(postal)
    sandbox.advance(seconds=9)
    assert sandbox.messages == []
    sandbox.advance(seconds=2)
    (mail,) = sandbox.messages
    assert mail.recipient == "a@b.c"


def test_a_part_of_the_recipients_is_stored_before_postal_fails(
    app: tuple[Postal, Sandbox],
) -> None:
    postal, sandbox = app
    for _ in range(2):
        sandbox.fault("partial", times=1)
        with pytest.raises(APIError):
            postal.send(
                Message("Hi", ["a@b.c", "d@e.f"], body="x", bcc="g@h.i", sender="d@e.f")
            )
    assert [mail.recipient for mail in sandbox.messages] == ["a@b.c", "a@b.c"]


def test_postal_does_not_show_a_mail_for_longer_than_it_keeps_it(
    app: tuple[Postal, Sandbox],
) -> None:
    postal, sandbox = app
    send(postal)
    sandbox.advance(minutes=59 * 24 * 60)
    assert postal.get_message(1).recipient == "a@b.c"
    sandbox.advance(minutes=2 * 24 * 60)
    with pytest.raises(APIError) as caught:
        postal.get_message(1)
    assert caught.value.code == "MessageNotFound"


def test_every_api_fault_is_tested() -> None:
    marks = test_an_api_fault_raises_the_expected_error.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == {str(f) for f in API_FAULTS}


def test_a_fault_stays_active_until_it_is_cleared(app: tuple[Postal, Sandbox]) -> None:
    postal, sandbox = app
    sandbox.fault(Fault.ERROR_500)
    sandbox.fault("403", times=2)
    assert sandbox.faults == {"500": None, "403": 2}
    for _ in range(3):
        with pytest.raises(APIError, match="HTTP 500"):
            send(postal)
    sandbox.clear_faults()
    assert send(postal)
    for wrong in ({"fault": "nope"}, {"fault": "500", "times": 0}):
        with pytest.raises(ValueError, match=r"nope|at least 1"):
            sandbox.fault(**wrong)


def test_the_sandbox_needs_no_app() -> None:
    with Sandbox(clock=ManualClock()) as sandbox:
        assert isinstance(sandbox.app, Flask)
