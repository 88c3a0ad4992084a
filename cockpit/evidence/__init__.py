"""The evidence pack: build, verify, recompute."""
