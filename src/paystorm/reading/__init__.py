"""What the spout is made of: offsets in flight, commits, retries, giving up, the first offsets of versions."""
