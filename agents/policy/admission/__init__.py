"""What may run in production."""
