"""Whether a task and an environment are worth an agent's time, found out before one is paid for."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import attrs

from envoi_trace_core.domain.parts import Evaluation
from envoi_trace_core.domain.solving import failing_lines, is_solved, visible_status
from envoi_trace_core.errors import AgentError
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
from envoi_trace_core.state import trajectory_dir

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
        AgentError: The task's script could not be played to its end.
    """
    has_script = solution is None and (Path(config.task) / "script.jsonl").is_file()
    plan = make_plan(config, plugins, agent_works=has_script)
    with tempfile.TemporaryDirectory(prefix="envoi-trace-check-") as scratch:
        folder = solution
        if has_script:
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
    from envoi_trace_core.builtin.script.actions import load_script, script_path

    root = scratch / "storage"
    actions = load_script(script_path(Path(config.task), None))
    played = attrs.evolve(
        config,
        trajectory_id=new_trajectory_id(),
        agent="script",
        storage="local",
        storage_opts=(f"root={root}",),
        eval_grace_s=0.0,
        auto_resume=False,
        # Asked for more turns than it has, the script would fail; so a failure is a real one.
        max_turns=1 + sum("turn" in action for action in actions),
    )
    try:
        outcome = await run_trajectory(make_plan(played, plugins), observer=SilentObserver(), stop=StopSignal())
    finally:
        # Nobody is going to go on with it.
        shutil.rmtree(trajectory_dir(played.trajectory_id), ignore_errors=True)
    if outcome.exit_status != 0:
        raise AgentError(f"the task's script was not played to its end: {outcome.message}", mend=outcome.mend)
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
