"""The signals an app connects to.

The sender of each is the Flask app. Connect functions that take ``**extra``: later
versions may send more.
"""

from __future__ import annotations

from blinker import Namespace

__all__ = ["inbound_received", "tracking_received"]

_signals = Namespace()

tracking_received = _signals.signal(
    "tracking-received",
    doc="""What became of a mail that was sent.

    Receivers are called as ``receiver(app, event=, postal=)`` with a
    :class:`.TrackingEvent`. A receiver that raises makes Postal call again.
    """,
)

inbound_received = _signals.signal(
    "inbound-received",
    doc="""A mail has come in.

    Receivers are called as ``receiver(app, event=, postal=)`` with an
    :class:`.InboundEvent`. Postal is told that the mail is delivered only after
    every receiver has returned.
    """,
)
