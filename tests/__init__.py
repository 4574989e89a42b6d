"""Tests of Flask-Postal: each name states what the package promises."""

from __future__ import annotations
