"""Tests of the help desk. They use the fixtures of Flask-Postal's pytest plugin."""
