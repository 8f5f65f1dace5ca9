"""A new source from options, a dialogue or a sample: what is guessed, the files' text, and writing all or nothing."""
