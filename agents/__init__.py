"""The roster: one module a domain."""
