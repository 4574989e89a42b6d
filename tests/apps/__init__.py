"""Apps that the tests serve in processes of their own."""

from __future__ import annotations
