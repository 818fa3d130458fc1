"""imagebuild: one pinned, locked, budgeted notebook image per team."""

__version__ = "0.1.0"
