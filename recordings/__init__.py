"""Sample recordings."""
