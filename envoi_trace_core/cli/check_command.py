"""`envoi-trace check`: is this task, with this environment, worth an agent's time?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envoi_trace_core.cli.output import note, out, out_json, printable_block
from envoi_trace_core.cli.reading import AsJson, run_async

if TYPE_CHECKING:
    from envoi_trace_core.harness.results import TestRun
    from envoi_trace_core.run.check import CheckReport

EXIT_PROBLEMS = 1


def check(
    task: Annotated[str, typer.Option(help="Folder of the task.", metavar="PATH")],
    env: Annotated[str, typer.Option(help="Folder of the environment.", metavar="PATH")],
    sandbox: Annotated[str, typer.Option(help="Where the tests run.", metavar="NAME")] = "local",
    sandbox_opt: Annotated[
        list[str] | None, typer.Option(help="An option of the sandbox. Repeatable.", metavar="KEY=VALUE")
    ] = None,
    solution: Annotated[
        str | None, typer.Option(help="Folder that solves the task; the task's script by default.", metavar="DIR")
    ] = None,
    repeat: Annotated[int, typer.Option(help="Test the solution so often.", metavar="N", min=1)] = 1,
    param: Annotated[
        list[str] | None, typer.Option(help="A parameter of the task. Repeatable.", metavar="KEY=VALUE")
    ] = None,
    lang: Annotated[str, typer.Option(help="Which prompt file of the task: CODE.md.", metavar="CODE")] = "en",
    json: AsJson = False,
) -> None:
    """Check a task and its environment before an agent is paid for: prompt, setup, tests, solution."""
    from envoi_trace_core.cli.run_config import pairs
    from envoi_trace_core.cli.run_display import RunDisplay
    from envoi_trace_core.errors import UsageError
    from envoi_trace_core.ids import new_trajectory_id
    from envoi_trace_core.plugins import Plugins
    from envoi_trace_core.run.check import check as run_check
    from envoi_trace_core.run.config import RunConfig

    folder = None if solution is None else Path(solution).absolute()
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {solution}", mend="--solution DIR names a folder that solves the task")
    config = RunConfig(
        trajectory_id=new_trajectory_id(),
        task=str(Path(task).absolute()),
        environment=str(Path(env).absolute()),
        agent="script",
        sandbox=sandbox,
        sandbox_opts=tuple(sandbox_opt or ()),
        storage="local",
        params=pairs(tuple(param or ()), "--param"),
        lang=lang,
    )
    display = RunDisplay(quiet=True)
    report = run_async(lambda: run_check(config, Plugins.load(), solution=folder, repeat=repeat, observer=display))
    if json:
        out_json(_summary(report))
    else:
        _print(report)
    if not report.passed:
        raise typer.Exit(EXIT_PROBLEMS)


def _summary(report: CheckReport) -> dict[str, object]:
    return {
        "passed": report.passed,
        "problems": report.problems,
        "prompt": report.prompt,
        "test_paths": report.test_paths,
        "empty_workspace": _words(report.empty),
        "solution": [_words(run) for run in report.solutions],
    }


def _print(report: CheckReport) -> None:
    out(f"prompt           {len(report.prompt):,} characters")
    out(f"test paths       {len(report.test_paths)}")
    out(f"empty workspace  {_words(report.empty)}")
    for number, run in enumerate(report.solutions, 1):
        out(f"solution, run {number}  {_words(run)}")
    if not report.solutions:
        note("no solution to test: the task has no script.jsonl, and --solution was not given")
    for problem in report.problems:
        out(f"problem: {printable_block(problem)}")
    out("passed" if report.passed else "failed")


def _words(run: TestRun) -> str:
    if run.status == "build_failed":
        return "does not build"
    return f"{run.counts.passed} of {run.counts.total} pass, in {run.duration_ms / 1000:.1f} s"
