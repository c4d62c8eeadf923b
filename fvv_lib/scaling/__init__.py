"""Room 9: larger models and larger runs: what they take, and what need not be computed twice."""
