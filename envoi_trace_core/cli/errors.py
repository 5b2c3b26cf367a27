"""The one place where errors become words on stderr and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping

import typer

from envoi_trace_core.cli.output import note, printable, styled
from envoi_trace_core.errors import EnvoiTraceError, InterruptedRunError, PluginError, UsageError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell shows a program that the reader of its output left

MAX_MESSAGE_CHARS = 2000


def guarded(command: Callable[[], int], *, debug: bool, origins: Callable[[], Mapping[str, str]] = dict) -> int:
    """Run a command; gives the exit status, and prints an error in one or two lines.

    Args:
        command: Gives its exit status.
        debug: Whether an error goes on with its traceback.
        origins: By the name of an option, which variable or file set it.
    """
    try:
        status = command()
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        note("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _after_broken_pipe()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer saw it first
            return _after_broken_pipe()
        raise
    except BaseExceptionGroup as group:
        if debug:
            raise
        return report(_only(group))
    except Exception as error:
        if debug and not _is_of_command_line(error):
            raise
        return _report_command_line(error, origins()) if _is_of_command_line(error) else report(error)
    return status


def report(error: BaseException) -> int:
    """Say what happened, why, and what mends it; gives the exit status."""
    match error:
        case InterruptedRunError():
            _say(error.message, error.mend)
            return error.exit_status
        case EnvoiTraceError():
            _say(error.message, error.mend)
            return EXIT_USAGE if isinstance(error, UsageError | PluginError) else EXIT_FAILED
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _say(f"no space left: {_of_os(error)}", "free some space and try again")
            return EXIT_FAILED
        case OSError():
            _say(_of_os(error), "--debug shows where")
            return EXIT_FAILED
        case _:
            _say(f"{type(error).__name__}: {error}", "this is a fault of envoi-trace; --debug shows where")
            return EXIT_FAILED


def _say(message: str, mend: str | None) -> None:
    text = printable(message)
    if len(text) > MAX_MESSAGE_CHARS:
        text = text[:MAX_MESSAGE_CHARS] + "…"
    note(f"{styled('error:', 'red', sys.stderr)} {text}")
    if mend:
        note(f"  {styled('mend:', 'green', sys.stderr)} {printable(mend)}")


def _is_of_command_line(error: BaseException) -> bool:
    """Whether typer refused an option or command. Its classes have no public base in every version: all say this."""
    return callable(getattr(error, "format_message", None))


def _report_command_line(error: Exception, origins: Mapping[str, str]) -> int:
    """What typer says of a wrong option or command, where the value came from, and where the help is."""
    format_message = getattr(error, "format_message", None)
    text = str(format_message() if callable(format_message) else error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "envoi-trace"
    name = getattr(getattr(error, "param", None), "name", None)
    if context is not None and isinstance(name, str) and name in origins:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "DEFAULT_MAP":
            text = f"{text.rstrip('.')} (set by {origins[name]})"
    _say(text[:1].lower() + text[1:], f"{command} --help")
    return EXIT_USAGE


def _of_os(error: OSError) -> str:
    what = error.strerror or type(error).__name__
    return f"{what}: {error.filename}" if error.filename else what


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of a task group that failed in one place; of several, the one that says most."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, EnvoiTraceError)), leaves[0])


def _after_broken_pipe() -> int:
    """The reader of our output left (`envoi-trace list | head`): be quiet, also when the interpreter flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE
