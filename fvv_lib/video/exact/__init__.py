"""How the true frames of a file are found without decoding all of it."""
