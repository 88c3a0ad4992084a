"""Generated JSON Schemas."""
