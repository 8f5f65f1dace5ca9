"""The ingest service: one REST end point for all sources, and the verdicts on the way back (docs/ingest.md)."""
