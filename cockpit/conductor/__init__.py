"""DAG, effects, canary, halt, lease and control socket."""
