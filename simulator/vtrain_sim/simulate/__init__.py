"""When: chunk durations, pipelines, memory, projections."""
