"""Room 3: which tokens are learned. Training uses `exact`; `counting` and `diagnosis` are for study."""
