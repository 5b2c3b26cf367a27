"""The live side of a run: its sandboxes, the environment's runtime, the relay and the tests. Gone when the run ends.

The durable side, which survives everything here, is `archive.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import anyio
import attrs

from envoi_trace_core.domain.facts import EvaluationRecorded
from envoi_trace_core.domain.parts import Evaluation
from envoi_trace_core.domain.solving import is_solved
from envoi_trace_core.errors import EnvoiTraceError
from envoi_trace_core.harness.evaluator import Evaluator, open_evaluator
from envoi_trace_core.harness.gate import TestGate
from envoi_trace_core.harness.lasting_runtime import LastingRuntime
from envoi_trace_core.harness.relay import open_relay
from envoi_trace_core.harness.runtime import EnvoiRuntime
from envoi_trace_core.harness.tool import RunTestsTool, open_run_tests_tool
from envoi_trace_core.protocols import Sandbox, SandboxRole
from envoi_trace_core.repo.repository import Repository
from envoi_trace_core.run.archive import Archive
from envoi_trace_core.run.forking import fill_from_origin
from envoi_trace_core.run.held_sandbox import HeldSandbox
from envoi_trace_core.run.moving import Move, planned_move
from envoi_trace_core.run.observer import Observer
from envoi_trace_core.run.outcome import end_of
from envoi_trace_core.run.plan import RunPlan
from envoi_trace_core.run.stop import StopRequest, StopSignal
from envoi_trace_core.specs import Requirements, SandboxRequest

CLOSE_TIMEOUT_S = 60.0
LIFETIME_MARGIN_S = 1800.0
"""A sandbox outlives the run's own timeout by this: the last evaluations and uploads still need it."""
MARKER = "trajectory"


def sandbox_name(trajectory_id: str, role: SandboxRole) -> str:
    """The name under which a trajectory's sandbox is made, and found again after any crash."""
    return f"envoi-trace-{trajectory_id}-{role}"


@attrs.frozen(kw_only=True)
class OpenSandbox:
    """A sandbox of this run."""

    sandbox: Sandbox
    is_same: bool
    """Whether an earlier orchestrator of this trajectory made it, so that what it left is still there."""


@asynccontextmanager
async def open_sandbox(
    plan: RunPlan, role: SandboxRole, observer: Observer, is_taken_over: Callable[[], Awaitable[bool]] | None = None
) -> AsyncIterator[OpenSandbox]:
    """Make the trajectory's sandbox of that role, or take the one that lives; close it at the end.

    Args:
        plan: The run's.
        role: What it is for.
        observer: Told of what takes long, or fails.
        is_taken_over: Whether another run works in it now; then it is neither used nor closed.
    """
    config, spec = plan.config, plan.sandbox.spec
    is_agents = role == "agent"
    request = SandboxRequest(
        name=sandbox_name(config.trajectory_id, role),
        trajectory_id=config.trajectory_id,
        role=role,
        lifetime_s=plan.left_s + config.eval_grace_s + LIFETIME_MARGIN_S,
        # The evaluation sandbox runs what the agent wrote, so it is as untrusted as the agent itself.
        runs_model=plan.agent.spec.runs_model,
        dockerfile=plan.environment.dockerfile,
        requirements=plan.agent.spec.requirements(plan.agent.options) if is_agents else Requirements(),
        companions=int(is_agents and config.eval_sandbox == "separate"),
        report=observer.note,
    )
    sandbox = await spec.create(request, plan.sandbox.options)
    if is_taken_over is not None:
        sandbox = HeldSandbox(sandbox, is_taken_over)
    try:
        is_same = await _is_marked(sandbox, config.trajectory_id)
        if is_same:
            await sandbox.keep_alive(request.lifetime_s)  # it was made for an earlier run, that had less time left
        yield OpenSandbox(sandbox=sandbox, is_same=is_same)
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True) as scope:
            await sandbox.close()
        if scope.cancelled_caught:
            observer.note(f"the {role} sandbox {sandbox.id} did not close in time; `envoi-trace cleanup` ends it")


async def _is_marked(sandbox: Sandbox, trajectory_id: str) -> bool:
    read = ["sh", "-c", 'head -c 200 "$1" 2>/dev/null || :', "sh", f"{sandbox.support_dir}/{MARKER}"]
    found = await sandbox.run(read, timeout_s=60, cwd="/")
    return found.stdout.decode(errors="replace") == trajectory_id


async def _mark(sandbox: Sandbox, trajectory_id: str) -> None:
    """Only once the workspace is what it should be: a crash before that must not look like a whole sandbox."""
    await sandbox.write_file(f"{sandbox.support_dir}/{MARKER}", trajectory_id.encode())


@attrs.define(kw_only=True)
class Workplace:
    """Everything live that a conversation with the agent needs."""

    plan: RunPlan
    archive: Archive
    stop: StopSignal
    agent: OpenSandbox
    repository: Repository
    evaluator: Evaluator
    tool: RunTestsTool
    move: Move | None
    """When the sandboxes must be left; None when they live as long as the run."""

    async def evaluate_head(self) -> None:
        """Wait until the newest commit is evaluated."""
        await self.evaluator.wait_for(self.repository.head)

    async def force_move(self) -> None:
        """End the attempt while its sandboxes can still be read."""
        if self.move is not None:
            await self.move.force(self.stop)

    async def finish_evaluations(self) -> None:
        """Evaluate what still waits, for a bounded time; nobody waits when the user ended the run, or it moves."""
        is_moving = self.stop.request is not None and self.stop.request.moves
        grace_s = 0.0 if self.stop.interrupted or is_moving else self.plan.config.eval_grace_s
        await self.evaluator.drain(grace_s)


@asynccontextmanager
async def open_workplace(
    plan: RunPlan, archive: Archive, observer: Observer, stop: StopSignal
) -> AsyncIterator[Workplace]:
    """Make, or find again, all that is live. What fails before the agent starts fails here.

    Raises:
        HarnessError: The environment's setup, runtime or schema failed.
        SandboxError: A sandbox could not be made.
        UsageError: The sandbox can't run this agent as it is set up.
    """
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(open_sandbox(plan, "agent", observer, archive.is_taken_over))
        runtime = await stack.enter_async_context(_runtime_of(plan, archive, observer, agent))
        repository = await _open_repository(plan, archive, agent)
        await _mark(agent.sandbox, plan.config.trajectory_id)
        await archive.begin(test_paths=runtime.schema.test_paths, initial_commit=repository.head)
        gate = TestGate(plan.config.eval_concurrency)
        evaluator = await stack.enter_async_context(
            open_evaluator(
                runtime=runtime,
                gate=gate,
                export=repository.export,
                tree_of=repository.tree_of,
                on_evaluation=partial(_take_evaluation, archive, stop),
                on_failure=partial(_end_for, stop, observer),
                known=archive.evaluations,
            )
        )
        for commit in archive.commits_to_evaluate():
            evaluator.submit(commit)
        archive.on_commit = evaluator.submit
        relay = await stack.enter_async_context(
            open_relay(agent.sandbox, report=observer.note, on_lost=partial(_end_for, stop, observer))
        )
        tool = await stack.enter_async_context(
            open_run_tests_tool(
                runtime=runtime,
                relay=relay,
                gate=gate,
                checkpoint=repository.peek,
                export=repository.export,
                on_call=archive.note_call,
                on_failure=partial(_end_for, stop, observer),
                hidden=plan.hidden,
                known=archive.calls,
            )
        )
        yield Workplace(
            plan=plan,
            archive=archive,
            stop=stop,
            agent=agent,
            repository=repository,
            evaluator=evaluator,
            tool=tool,
            move=planned_move((agent.sandbox, runtime.sandbox)),
        )


def _runtime_of(
    plan: RunPlan, archive: Archive, observer: Observer, agent: OpenSandbox
) -> AbstractAsyncContextManager[EnvoiRuntime | LastingRuntime]:
    """The environment's runtime, to be entered: in a sandbox of its own, or in the agent's when it shares that."""

    def runtime_in(sandbox: Sandbox) -> EnvoiRuntime:
        return EnvoiRuntime(sandbox=sandbox, environment=plan.environment, report=observer.note)

    @asynccontextmanager
    async def in_its_own() -> AsyncIterator[EnvoiRuntime]:
        async with (
            open_sandbox(plan, "evaluation", observer, archive.is_taken_over) as opened,
            runtime_in(opened.sandbox) as runtime,
        ):
            yield runtime

    if plan.config.eval_sandbox == "shared":
        return runtime_in(agent.sandbox)
    return LastingRuntime(open=in_its_own, is_taken_over=archive.is_taken_over, report=observer.note)


async def _open_repository(plan: RunPlan, archive: Archive, agent: OpenSandbox) -> Repository:
    """The workspace's history; in a sandbox that is new to a trajectory that is not, the workspace first."""
    repository = await Repository.open(
        mirror_dir=archive.mirror_dir,
        sandbox=agent.sandbox,
        redact=archive.redactor.bytes if plan.secrets else None,
    )
    if archive.state.head is not None and not agent.is_same:
        await archive.note_lost_sandbox()
        await repository.restore_into(agent.sandbox, archive.state.head)
    elif plan.config.forked_from is not None and not agent.is_same:
        await fill_from_origin(repository, archive.storage, plan.config)
    await repository.begin(datetime.now(UTC))
    return repository


async def _take_evaluation(archive: Archive, stop: StopSignal, evaluation: Evaluation) -> None:
    await archive.ledger.add(EvaluationRecorded(evaluation=archive.redactor.value(evaluation)))
    if is_solved(evaluation.results, archive.state.test_paths):
        stop.ask(StopRequest(reason="solved"))


def _end_for(stop: StopSignal, observer: Observer, error: EnvoiTraceError) -> None:
    """The tests can't be run any more: going on would cost money and show nothing."""
    observer.note(f"the tests failed to run: {error.message}")
    end = end_of(error)
    stop.ask(StopRequest(reason=end.reason, message=error.message, worth_restarting=end.worth_restarting))
