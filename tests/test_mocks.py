"""Postal's API can be mocked with the ``responses`` package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import responses
from responses.matchers import header_matcher, json_params_matcher

from flask_postal import Message, Postal, TransportError

from .conftest import MakeApp

URL = "https://postal.example.com/api/v1"
SUCCESS = {
    "status": "success",
    "time": 0.1,
    "flags": {},
    "data": {"message_id": "x@y", "messages": {"a@b.c": {"id": 1, "token": "t"}}},
}


@pytest.fixture
def postal(make_app: MakeApp) -> Iterator[Postal]:
    app, postal = make_app(
        POSTAL_API_URL="https://postal.example.com",
        POSTAL_API_KEY="planted",
        POSTAL_DEFAULT_SENDER="d@e.f",
    )
    with app.app_context():
        yield postal


@responses.activate
def test_responses_can_mock_a_successful_send(postal: Postal) -> None:
    sent = {"from": "d@e.f", "to": ["a@b.c"], "subject": "Hi", "plain_body": "x"}
    responses.post(
        f"{URL}/send/message",
        json=SUCCESS,
        match=[
            json_params_matcher(sent),
            header_matcher({"X-Server-API-Key": "planted"}),
        ],
    )
    result = postal.send(Message("Hi", "a@b.c", body="x"))
    assert result.recipients["a@b.c"].id == 1
    call: Any = responses.calls[0]
    assert json.loads(call.request.body) == sent
    assert call.request.headers["content-type"] == "application/json"
    assert call.response.json() == SUCCESS


@responses.activate
def test_responses_can_mock_a_connection_error(postal: Postal) -> None:
    responses.post(f"{URL}/send/message", body=requests.ConnectionError("refused"))
    with pytest.raises(TransportError, match="refused") as raised:
        postal.send(Message("Hi", "a@b.c", body="x"))
    assert raised.value.maybe_sent is False


@responses.activate
def test_responses_can_mock_a_read_timeout(postal: Postal) -> None:
    responses.post(f"{URL}/send/message", body=requests.ReadTimeout("slow"))
    with pytest.raises(TransportError, match="slow") as raised:
        postal.send(Message("Hi", "a@b.c", body="x"))
    assert raised.value.maybe_sent is True
    assert len(responses.calls) == 1


@responses.activate
def test_responses_can_mock_get_message(postal: Postal) -> None:
    data = {"id": 5, "status": {"status": "Sent"}}
    responses.post(f"{URL}/messages/message", json={"status": "success", "data": data})
    assert postal.get_message(5).status == "Sent"
