"""Agent RPC v2, Promote and Rollback v2, verdicts, manifest: models and schema validation."""
