"""Find the exact frames of a file without decoding all of it."""
