"""The command line: commands, exit codes, renderers."""


def main() -> int:
    """Run the `cockpit` command and return its exit code."""
    from cockpit.cli.main import run

    return run()
