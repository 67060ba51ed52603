"""Training frameworks that a capture can hook into."""
