"""Whole scenarios as processes."""
