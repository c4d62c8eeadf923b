"""Room 4: frames become features, features are spliced into the prompt, and the language model reads both."""
