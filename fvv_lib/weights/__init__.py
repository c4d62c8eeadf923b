"""Room 8: load, merge and convert model folders, in Hugging Face's layout and in Apple's."""
