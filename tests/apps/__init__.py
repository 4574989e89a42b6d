"""Apps that the tests run in separate processes."""

from __future__ import annotations
