"""The tests of the help desk; they use the fixtures that come with Flask-Postal."""
