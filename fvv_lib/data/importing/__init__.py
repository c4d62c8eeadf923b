"""Read annotation files of other projects: one module for each format, behind one interface (`sources`)."""
