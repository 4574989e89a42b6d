"""Packages that send mail, unmodified: with the real ones installed."""
