"""The work and memory that reading a mail takes are bounded, for each shape of
:mod:`tests.hostile`."""

from __future__ import annotations

import sys
import tracemalloc
from types import FrameType
from typing import Any

import pytest

from flask_postal.webhooks.inbound import parse_inbound
from flask_postal.webhooks.mail.message import InboundMessage

from .hostile import MB, SHAPES, body_of, read_all

#: How many calls and returns reading a mail of 2 MB may take. One second for a mail of
#: 10 MB would allow some 5 million.
MAX_CALLS = 1_300_000


def message(shape: str, size: int) -> InboundMessage:
    return parse_inbound(body_of(SHAPES[shape](size))).message


def count_calls(shape: str, size: int) -> int:
    """Count the function calls, in Python and C, that reading a whole mail takes."""
    mail, count = message(shape, size), 0

    def counting(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += 1

    earlier = sys.getprofile()
    sys.setprofile(counting)
    try:
        read_all(mail)
    finally:
        sys.setprofile(earlier)
    return count


@pytest.fixture(scope="module", autouse=True)
def load_charsets() -> None:
    """Load the charsets' tables first, so that they are not counted."""
    for shape in SHAPES:
        read_all(message(shape, 1000))


@pytest.mark.parametrize("shape", SHAPES)
def test_work_is_bounded_and_does_not_grow_faster_than_the_mail(shape: str) -> None:
    small, large = count_calls(shape, MB // 2), count_calls(shape, 2 * MB)
    assert large <= MAX_CALLS
    assert large <= 4.5 * small + 1000


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_bounded(shape: str) -> None:
    mail = message(shape, 2 * MB)
    tracemalloc.start()
    try:
        read_all(mail)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 12 * 2 * MB + 10 * MB


@pytest.mark.parametrize("shape", SHAPES)
def test_all_attributes_can_be_stored_in_a_database(shape: str) -> None:
    values = read_all(message(shape, 20_000))
    text = repr({name: value for name, value in values.items() if name != "raw"})
    assert "\0" not in (values["text"] or "")
    text.encode()


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ("short headers", "headers: over 10000"),
        ("one long header", "headers: over 10000 or too long"),
        ("encoded words in headers", "headers: too many encoded words"),
        ("parts with long parameters", "parts: too long headers"),
        ("parts", "parts: more than 1000"),
        ("lines like boundaries", "parts: too many boundaries"),
        ("1,000 nested multiparts", "parts: nested too deeply"),
        ("charset utf-16, damaged", "text: most of it is not utf-16"),
    ],
)
def test_content_beyond_a_limit_is_noted_in_defects_and_kept_in_raw(
    shape: str, problem: str
) -> None:
    mail = message(shape, 2 * MB)
    read_all(mail)
    assert any(defect.startswith(problem) for defect in mail.defects), mail.defects
    assert mail.raw == SHAPES[shape](2 * MB)
