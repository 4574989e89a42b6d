"""Binds a simulation to the sandbox's Flask app, and gives it to the views."""

from __future__ import annotations

from flask import Flask, current_app

from .simulation import Simulation

__all__ = ["bind", "current_simulation"]

_KEY = "postal-sandbox"


def bind(app: Flask, simulation: Simulation) -> None:
    """Bind the simulation that the views of an app act on."""
    app.extensions[_KEY] = simulation


def current_simulation() -> Simulation:
    """Return the simulation of the current app."""
    simulation: Simulation = current_app.extensions[_KEY]
    return simulation
