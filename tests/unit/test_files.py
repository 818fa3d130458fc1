"""Temporary files: a later run takes away what a killed one left, and nothing of a run that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from imagebuild.files import replacing, sweep_temporaries, sweep_writes

WRITER = """
import sys, time
from pathlib import Path
from imagebuild.files import replacing
with replacing(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writer(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def age(folder: Path, seconds: float) -> list[str]:
    moment = time.time() - seconds
    for path in folder.iterdir():
        os.utime(path, (moment, moment), follow_symlinks=False)
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    for sweep in (sweep_temporaries, sweep_writes):
        process = start_writer(tmp_path / "file.yaml")
        assert len(age(tmp_path, 60)) == 1
        sweep(tmp_path)
        assert len(age(tmp_path, 60)) == 1  # somebody is writing it
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_new_one_is_left_to_its_owner(tmp_path: Path) -> None:
    (tmp_path / ".tmp-abcd1234").write_bytes(b"")
    sweep_writes(tmp_path)
    sweep_temporaries(tmp_path)
    assert age(tmp_path, 60) == [".tmp-abcd1234"]
    sweep_writes(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_only_looks_like_one_is_the_user_s(tmp_path: Path) -> None:
    (tmp_path / ".tmp-notes").write_text("mine")
    (tmp_path / ".tmp-abcd1234").symlink_to(".tmp-notes")
    (tmp_path / ".tmp-folder12").mkdir()
    before = age(tmp_path, 7 * 24 * 3600)
    sweep_writes(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_file_is_written_while_others_sweep(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as stream:
        stream.write(b"x")
        age(tmp_path, 60)
        sweep_temporaries(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"x"
