"""Tar and compression, without knowledge of wheels."""
