"""Send messages: ``Message -> Content -> Prepared -> HTTP -> SendResult``.

:mod:`.pipeline` runs the steps. This package and :mod:`flask_postal.webhooks` don't
import each other.
"""

from __future__ import annotations
