"""The widgets of the cockpit, one a file."""
