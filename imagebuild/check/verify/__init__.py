"""What ``verify`` asks of a pushed image."""
