"""Tests of the contact form: fields, errors, and the limit on confirmations."""

from __future__ import annotations

import re

from flask import Flask
from flask.testing import FlaskClient

from example_app.mail import MAX_CONFIRMED
from example_app.models import Ticket, db
from flask_postal.sandbox import Sandbox, compose_mail

from .test_helpdesk import write_to_us


def count_tickets(app: Flask) -> int:
    with app.app_context():
        return db.session.query(Ticket).count()


def field(page: str, name: str) -> str:
    """Return the HTML tag of a field."""
    found = re.search(rf'<(?:input|textarea)[^>]* name="{name}"[^>]*>', page)
    assert found
    return found[0]


def test_the_address_field_has_the_email_type(client: FlaskClient) -> None:
    page = client.get("/").text
    assert 'type="email"' in field(page, "email")
    assert "aria-invalid" not in page
    assert "autofocus" not in page


def test_invalid_fields_are_marked_and_the_first_gets_the_focus(
    client: FlaskClient,
) -> None:
    page = write_to_us(client, email="nobody", text="")
    for name in ("email", "text"):
        assert 'aria-invalid="true"' in field(page, name)
        assert f'aria-describedby="{name}-error"' in field(page, name)
        assert f'id="{name}-error"' in page
    assert "aria-invalid" not in field(page, "subject")
    assert "autofocus" in field(page, "email")
    assert page.count("autofocus") == 1


def test_confirmations_to_one_address_are_limited_per_hour(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    for number in range(MAX_CONFIRMED):
        page = write_to_us(client, email=f"Ana+{number}@example.com")
        assert "is on its way" in page
    page = write_to_us(client, email="ana@example.com")
    assert "We have your message." in page
    assert "not confirmed by mail" in page
    assert len(postal_sandbox.messages) == MAX_CONFIRMED
    assert count_tickets(app) == MAX_CONFIRMED + 1
    assert "is on its way" in write_to_us(client, email="bo@example.com")


def test_form_and_mail_share_the_limit_on_confirmations(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    for number in range(MAX_CONFIRMED - 1):
        write_to_us(client, email=f"ana+{number}@example.com")
    for number in range(3):
        mail = compose_mail(
            f"Mail {number}", "Hi", to="help@example.com", sender="ana@example.com"
        )
        postal_sandbox.receive(mail, to="help@example.com", sender="ana@example.com")
    assert len(postal_sandbox.messages) == MAX_CONFIRMED
    assert "not confirmed by mail" in write_to_us(client)
    assert count_tickets(app) == MAX_CONFIRMED + 3
