"""Gives the sandbox's views the simulation that they act on."""

from __future__ import annotations

from flask import Flask, current_app

from .simulation import Simulation

__all__ = ["bind", "current_simulation"]

_KEY = "postal-sandbox"


def bind(app: Flask, simulation: Simulation) -> None:
    """Make a simulation the one that the views of an app act on."""
    app.extensions[_KEY] = simulation


def current_simulation() -> Simulation:
    """Return the simulation of the current app."""
    simulation: Simulation = current_app.extensions[_KEY]
    return simulation
