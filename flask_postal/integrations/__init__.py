"""Bridges to other packages. Each module needs an extra, and nothing imports them."""
