"""The tests: a list of promises, kept by running them."""

from __future__ import annotations
