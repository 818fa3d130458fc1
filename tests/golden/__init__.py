"""Exact values of one tiny base, lock and team: ``values.json`` and the files beside it. ``python -m tests.golden`` writes them anew."""
