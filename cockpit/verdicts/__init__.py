"""Gates, thresholds and analysis: pure functions of recorded answers."""
