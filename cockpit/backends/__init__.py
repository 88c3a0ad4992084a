"""One protocol and its real client a file."""
