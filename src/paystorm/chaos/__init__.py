"""Faults done on purpose to real servers while records flow, and what must hold after each of them."""
