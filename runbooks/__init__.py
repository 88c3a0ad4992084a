"""Markdown runbooks."""
