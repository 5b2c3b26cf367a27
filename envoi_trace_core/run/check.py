"""Whether a task and an environment are worth an agent's time, found out before one is paid for."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs

from envoi_trace_core.domain.parts import Evaluation
from envoi_trace_core.domain.solving import failing_lines, is_solved, visible_status
from envoi_trace_core.harness.results import TestRun
from envoi_trace_core.harness.runtime import EnvoiRuntime
from envoi_trace_core.ids import new_trajectory_id
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.observer import Observer, SilentObserver
from envoi_trace_core.run.plan import make_plan
from envoi_trace_core.run.stop import StopSignal
from envoi_trace_core.run.trajectory import run_trajectory
from envoi_trace_core.run.workplace import open_sandbox

TEST_TIMEOUT_S = 3600.0


@attrs.frozen(kw_only=True)
class CheckReport:
    """What a check found."""

    prompt: str
    test_paths: tuple[str, ...]
    empty: TestRun
    """The tests on an empty workspace."""
    solutions: tuple[TestRun, ...]
    """The tests on the solution, once a repeat; empty when there is none."""
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


async def check(
    config: RunConfig, plugins: Plugins, *, solution: Path | None, repeat: int, observer: Observer
) -> CheckReport:
    """Render the prompt, set the environment up, and test the empty workspace and the solution.

    Args:
        config: Of a run with the script agent; its task's script is the solution when `solution` is None.
        plugins: What is installed.
        solution: A folder that solves the task.
        repeat: How often the solution is tested: results that differ are a problem.
        observer: Told what happens.

    Raises:
        UsageError: The task, the environment or an option is wrong.
        HarnessError: setup.sh or the runtime failed, or there is no test.
    """
    plan = make_plan(config, plugins)
    with tempfile.TemporaryDirectory(prefix="envoi-trace-check-") as scratch:
        folder = solution
        if folder is None and (plan.task.directory / "script.jsonl").is_file():
            observer.note("the task's script is played")
            folder = await _play(config, plugins, Path(scratch))
        (nothing := Path(scratch) / "empty").mkdir()
        async with (
            open_sandbox(plan, "evaluation", observer) as opened,
            EnvoiRuntime(sandbox=opened.sandbox, environment=plan.environment, report=observer.note) as runtime,
        ):
            empty = await runtime.test(nothing, timeout_s=TEST_TIMEOUT_S)
            solutions: list[TestRun] = []
            while folder is not None and len(solutions) < repeat:
                solutions.append(await runtime.test(folder, timeout_s=TEST_TIMEOUT_S))
            paths = runtime.schema.test_paths
    return CheckReport(
        prompt=plan.task.prompt,
        test_paths=paths,
        empty=empty,
        solutions=tuple(solutions),
        problems=tuple(_problems(paths, empty, solutions)),
    )


async def _play(config: RunConfig, plugins: Plugins, scratch: Path) -> Path:
    """The workspace that the task's script makes."""
    from envoi_trace_core.analysis.replay import checkout_part

    root = scratch / "storage"
    played = attrs.evolve(
        config,
        trajectory_id=new_trajectory_id(),
        agent="script",
        storage="local",
        storage_opts=(f"root={root}",),
        eval_grace_s=0.0,
        auto_resume=False,
    )
    outcome = await run_trajectory(make_plan(played, plugins), observer=SilentObserver(), stop=StopSignal())
    workspace = scratch / "solution"
    workspace.mkdir()
    if outcome.final_commit is not None:
        checkout_part(root / "trajectories" / played.trajectory_id / "repo.bundle", outcome.final_commit, workspace)
    return workspace


def _problems(paths: tuple[str, ...], empty: TestRun, solutions: list[TestRun]) -> list[str]:
    problems: list[str] = []
    if is_solved(empty.results, paths):
        problems.append("every test passes on an empty workspace: they test nothing")
    for number, run in enumerate(solutions, 1):
        if run.status == "build_failed":
            problems.append(f"the solution does not build: {run.error}")
        elif not is_solved(run.results, paths):
            status = visible_status(Evaluation(commit="", status=run.status, results=run.results), paths, ())
            problems.append(f"the solution fails (run {number}):\n{failing_lines(status)}")
    outcomes = {tuple((result.path, result.counts) for result in run.results) for run in solutions}
    if len(outcomes) > 1:
        problems.append(f"the same solution gave different results in {len(solutions)} runs: the tests are flaky")
    return problems
