"""Release Cockpit: takes a release from readiness to general availability and leaves verifiable evidence."""
