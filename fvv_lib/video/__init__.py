"""Room 1: a video file becomes the frames that are asked for, and frames become pixels."""
