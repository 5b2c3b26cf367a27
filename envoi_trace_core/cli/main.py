"""The command `envoi-trace`: run mode without a subcommand, everything else a subcommand in a module of its own.

Modules of commands import at their top only what is light; what a command needs it imports when it runs. So
`--help` and `plugins` stay fast, and a broken library breaks only the command that uses it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, override

import typer
from typer.core import TyperGroup

from envoi_trace_core.cli import (
    batch_command,
    check_command,
    cleanup_command,
    compare_command,
    doctor_command,
    evaluate_command,
    export_command,
    fork_command,
    graph_command,
    import_command,
    list_command,
    logs_command,
    plugins_command,
    query_command,
    resume_command,
    show_command,
    status_command,
    stop_command,
    upload_command,
)
from envoi_trace_core.cli.errors import guarded
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.cli.signature import option_shapes, takes_run_options
from envoi_trace_core.config import Settings, load_env_file, load_settings
from envoi_trace_core.errors import UsageError

SHARED_SETTINGS = ("storage", "storage_opt", "sandbox", "sandbox_opt")
"""Settings that also count for subcommands; the others are of a run."""


class Commands(TyperGroup):
    """typer makes of an interrupt a silent exit status; `guarded` has words for it."""

    @override
    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(
    name="envoi-trace",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
@takes_run_options
def run_mode(
    context: typer.Context,
    options: RunOptions,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Run a coding agent in a sandbox, record every action, and test what it makes.

    A run: envoi-trace --agent script --sandbox local --task PATH --env PATH
    """
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"envoi-trace {version_of('envoi-trace')}")
        return
    if context.invoked_subcommand is not None:
        _refuse_run_options(options, context.invoked_subcommand)
        return
    if not options.given - {"debug"} and options.task is None and options.env is None:
        typer.echo(context.get_help())
        return
    _check_env(options)
    from envoi_trace_core.cli.run_command import run

    raise typer.Exit(run(options))


def _refuse_run_options(options: RunOptions, command: str) -> None:
    """`envoi-trace --storage s3 list` would otherwise list another storage than the one that was named."""
    misplaced = sorted(options.given - {"debug", "version"})
    if misplaced:
        flag = "--" + misplaced[0].replace("_", "-")
        raise UsageError(
            f"{flag} stands before {command!r}, where it is an option of a run",
            mend=f"envoi-trace {command} ... {flag} ..., if {command!r} takes it: envoi-trace {command} --help",
        )


def _check_env(options: RunOptions) -> None:
    if options.env is None or os.path.lexists(options.env):
        return
    from envoi_trace_core.plugins import Plugins

    Plugins.load().check_environment_argument(options.env)


app.command("batch")(batch_command.batch)
app.command("check")(check_command.check)
app.command("list")(list_command.list_trajectories)
app.command("show")(show_command.show)
app.command("query")(query_command.query)
app.command("graph")(graph_command.graph)
app.command("compare")(compare_command.compare)
app.command("evaluate")(evaluate_command.evaluate)
app.command("export")(export_command.export)
app.command("import")(import_command.import_)
app.command("resume")(resume_command.resume)
app.command("fork")(fork_command.fork)
app.command("upload")(upload_command.upload)
app.command("doctor")(doctor_command.doctor)
app.command("cleanup")(cleanup_command.cleanup)
app.command("status")(status_command.status)
app.command("logs")(logs_command.logs)
app.command("stop")(stop_command.stop)
app.command("plugins")(plugins_command.plugins)


def main(arguments: list[str] | None = None) -> None:
    """The console script: runs a command and exits with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, separator, rest = _split(words)
    debug = "--debug" in options
    options = [word for word in options if word != "--debug"]
    command_line = [*(["--debug"] if debug else []), *options, *separator, *rest]
    settings = Settings()

    def command() -> int:
        nonlocal settings
        if not {"--help", "-h"} & set(options):  # a broken file must not take the help away
            load_env_file(Path.cwd(), os.environ)
            settings = load_settings(Path.cwd(), os.environ, option_shapes())
        defaults = default_map(settings, options[0] if options else "")
        status = app(command_line, prog_name="envoi-trace", standalone_mode=False, default_map=defaults)
        return int(status or 0)

    debug = debug or os.environ.get("ENVOI_TRACE_DEBUG", "").lower() in ("1", "true", "yes", "on")
    sys.exit(guarded(command, debug=debug, origins=lambda: settings.origins))


def _split(words: list[str]) -> tuple[list[str], list[str], list[str]]:
    """`--debug` may stand anywhere before a `--`."""
    if "--" not in words:
        return words, [], []
    index = words.index("--")
    return words[:index], ["--"], words[index + 1 :]


def default_map(settings: Settings, first_word: str = "") -> dict[str, Any]:
    """The settings as typer wants them: at the root for run mode, and the shared ones below each subcommand.

    `batch` is a subcommand and an option of run mode, and both would read the same key: the first word tells which.
    """
    shared = {name: value for name, value in settings.values.items() if name in SHARED_SETTINGS}
    commands = {command.name for command in app.registered_commands if command.name}
    options = set(option_shapes())
    below = {name: shared for name in commands if name not in options or name == first_word}
    return {**settings.values, **below}


if __name__ == "__main__":
    main()
