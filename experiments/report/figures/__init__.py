"""Pictures of a study's results."""
