"""Room 9: larger models and larger runs: predict memory, cache vision features, train on several ranks."""
