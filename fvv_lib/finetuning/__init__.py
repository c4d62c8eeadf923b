"""Room 6: turn settings into a run, its checkpoints and its record."""
