"""The material of the lessons and tests: clips, questions, and a model small enough for a laptop."""
