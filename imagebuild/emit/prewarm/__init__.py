"""Node pools, and the objects that keep images on their nodes."""
