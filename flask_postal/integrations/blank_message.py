"""A message as Flask-Mail and Flask-Mailman send it."""

from __future__ import annotations

from typing import ClassVar

from ..sending.message import Message

__all__ = ["BlankMessage"]


class BlankMessage(Message):
    """A message that may have no content at all."""

    may_be_blank: ClassVar[bool] = True
