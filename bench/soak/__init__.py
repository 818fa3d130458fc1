"""Imagebuild under fire: kills, crowds, full disks, registries and indexes that fail or lie, hostile files. Run it with ``make soak``."""
