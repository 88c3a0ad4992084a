"""The embedded world: stand-in servers, demo application, traffic and scenarios."""
