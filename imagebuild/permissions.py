"""Owner and mode of what is installed: root owns it, and a file is a program (0755) or not (0644), whatever else its archive says."""

from __future__ import annotations

ROOT = (0, 0)  # uid and gid
FILE_MODE = 0o644
PROGRAM_MODE = 0o755
FOLDER_MODE = 0o755


def choose_mode(executable: bool) -> int:
    """The mode of a regular file: all may read it, all may run a program, only its owner may write it."""
    return PROGRAM_MODE if executable else FILE_MODE
