"""Runs of the command line inside the test's process, for what a process of its own would not prove better: texts and exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from unittest import mock

import pytest

from imagebuild.cli import main
from tests.support.workspaces import Checkout, Done


def run_here(checkout: Checkout, *arguments: str) -> Done:
    """As ``Checkout.run``, without a new process and without the watch on modules that are loaded in threads."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with (
        mock.patch.object(sys, "argv", ["imagebuild", *arguments, *checkout.places]),
        mock.patch.dict(os.environ, checkout.environment, clear=True),
        contextlib.chdir("/"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert isinstance(ended.value.code, int)
    out.seek(0)
    err.seek(0)
    return Done(ended.value.code, out.read(), err.read())
