"""The real servers of a rehearsal, on loopback and without containers; `make backends` brings the binaries.

Each runs as a child of the process that asked for it, in a network namespace without a way out, with its
files in a folder of its own, and ends with its parent, whatever happens to that.
"""
