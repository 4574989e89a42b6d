"""Webhooks: verify Postal's requests, parse them, call receivers, and respond."""

from __future__ import annotations
