"""Action registry, control-socket messages and client."""
