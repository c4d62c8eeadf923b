"""Room 7: a model is asked as it was taught, once, in a dialogue, or on a whole test set."""
