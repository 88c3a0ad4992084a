"""Who may do what to a release, and what is asked of them besides; `../decision_table.json` is its test."""
