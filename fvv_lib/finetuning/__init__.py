"""Room 6: settings become a run, its checkpoints and its record."""
