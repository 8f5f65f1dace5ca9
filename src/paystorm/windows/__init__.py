"""Windowed counting: figures by party and interval, and the hits that follow from them (SEMANTICS.md §4)."""
