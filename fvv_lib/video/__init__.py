"""Room 1: read the requested frames of a video file, and convert frames to pixels."""
