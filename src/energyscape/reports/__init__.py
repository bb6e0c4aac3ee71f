"""Pages and films, rendered from what runs and evaluations have recorded."""
