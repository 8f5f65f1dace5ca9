"""Retention: what may go of a source, when, and how it goes (decision 0012)."""
