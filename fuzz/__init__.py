"""Coverage-guided fuzzing: `python fuzz/run.py`, `make fuzz`."""
