"""Room 8: folders of weights are loaded, merged and converted, in Hugging Face's layout and in Apple's."""
