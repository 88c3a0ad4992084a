"""`python -m cockpit` is the `cockpit` command."""

import sys

from cockpit.cli import main

if __name__ == "__main__":
    sys.exit(main())
