from __future__ import annotations

import errno

import pytest

from envoi_trace_core import errors
from envoi_trace_core.cli.errors import guarded


def raising(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError("m"), 2),
        (errors.PluginError("m"), 2),
        (errors.AgentError("m"), 1),
        (errors.SandboxLostError("m"), 1),
        (errors.StorageError("m"), 1),
        (errors.KeyMissingError("m"), 1),
        (errors.HarnessError("m"), 1),
        (errors.TraceFormatError("m"), 1),
        (errors.InterruptedRunError("m", exit_status=143), 143),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1),
        (ZeroDivisionError("division by zero"), 1),
        (KeyboardInterrupt(), 130),
        (ExceptionGroup("group", [ValueError("x"), ExceptionGroup("inner", [errors.UsageError("m")])]), 2),
    ],
)
def test_each_error_has_its_status_and_no_traceback(capsys, error, status):
    assert guarded(raising(error), debug=False) == status

    captured = capsys.readouterr()
    assert captured.out == ""
    assert 1 <= len(captured.err.splitlines()) <= 2
    assert "Traceback" not in captured.err


def test_message_and_mend_stand_on_a_line_each(capsys):
    guarded(raising(errors.UsageError("what\nand why \x1b[31m", mend="envoi-trace\nplugins")), debug=False)

    assert capsys.readouterr().err == "error: what and why \\x1b[31m\n  mend: envoi-trace plugins\n"


def test_no_space_left_is_said_in_words(capsys):
    guarded(raising(OSError(errno.ENOSPC, "No space left on device", "/disk/x")), debug=False)

    assert "no space left" in capsys.readouterr().err


def test_a_fault_of_ours_says_so(capsys):
    guarded(raising(ZeroDivisionError("division by zero")), debug=False)

    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_a_message_is_bounded(capsys):
    guarded(raising(errors.AgentError("x" * 100_000)), debug=False)

    assert len(capsys.readouterr().err) < 3000


def test_debug_lets_the_error_through():
    with pytest.raises(errors.UsageError):
        guarded(raising(errors.UsageError("m")), debug=True)


def test_a_status_is_given_back():
    assert guarded(lambda: 6, debug=False) == 6
