"""Mail out: ``Message -> Prepared -> HTTP -> SendResult``."""

from __future__ import annotations
