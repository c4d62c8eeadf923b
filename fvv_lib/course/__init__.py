"""What the lessons and the tests are made of: clips, questions, and a model small enough for a laptop."""
