"""Room 3: which tokens are learned. `exact` trains; `counting` and `diagnosis` are there to be studied."""
