"""Events in: signed bytes -> event -> receivers -> status."""

from __future__ import annotations
