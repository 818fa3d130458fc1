"""The main job, step after step: team -> base -> lock -> recipe -> layer -> image -> checks -> registry."""
