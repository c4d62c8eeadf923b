"""Room 5: annotation files become checked samples, and samples become batches."""
