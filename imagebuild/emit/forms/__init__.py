"""Spawner forms: what each target's form reads, made of the catalogue."""
