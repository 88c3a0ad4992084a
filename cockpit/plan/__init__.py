"""The release plan: model, loading, refusal of plans that cannot fail."""
