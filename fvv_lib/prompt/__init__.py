"""Room 2: a conversation becomes a prompt with one `<image>` for each frame."""
