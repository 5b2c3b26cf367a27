"""`envoi-trace evaluate`: the environment's tests on the commits of a stored trajectory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from envoi_trace_core.cli.output import note, out, out_fields, out_json, out_table, printable
from envoi_trace_core.cli.reading import (
    AsJson,
    StorageName,
    StorageOpts,
    StorageWords,
    TrajectoryWord,
    run_async,
    trace_file,
)
from envoi_trace_core.errors import InterruptedRunError, StorageError, UsageError

if TYPE_CHECKING:
    from envoi_trace_core.analysis.evaluate_report import CommitResult, EvaluationReport, ReportStore
    from envoi_trace_core.protocols import Storage
    from envoi_trace_core.repo.git import Git
    from envoi_trace_core.trace.lease import Lease
    from envoi_trace_core.trace.reader import Trace

EXIT_NOT_ALL = 1


@attrs.frozen(kw_only=True)
class Wanted:
    """The command's options."""

    env: str
    sandbox: str
    sandbox_opts: tuple[str, ...]
    commits: str
    concurrency: int
    timeout_s: float
    output: Path | None
    write: bool
    again: bool


def evaluate(
    trajectory: TrajectoryWord,
    env: Annotated[str, typer.Option(help="Folder of the environment; it may have changed.", metavar="PATH")],
    commits: Annotated[
        str, typer.Option(help="all, last, missing, every:K, or parts such as 3,14.", metavar="WHICH")
    ] = "all",
    part: Annotated[int | None, typer.Option(help="Only the commit of this part.", metavar="N", min=1)] = None,
    sandbox: Annotated[str, typer.Option(help="Where the tests run.", metavar="NAME")] = "modal",
    sandbox_opt: Annotated[
        list[str] | None, typer.Option(help="An option of the sandbox. Repeatable.", metavar="KEY=VALUE")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Sandboxes at once.", metavar="K", min=1, max=1000)] = 1,
    timeout: Annotated[float, typer.Option(help="For one commit.", metavar="S", min=1)] = 3600.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The report; next to the trace by default.", metavar="FILE")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the results into the trace too.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Evaluate anew what the report holds already.")] = False,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
    json: AsJson = False,
) -> None:
    """Run an environment's tests on the commits of a stored trajectory, in fresh sandboxes.

    What was found stands in the report at once: the same command again does the rest only.
    """
    if part is not None and commits != "all":
        raise UsageError("--part and --commits name commits both", mend=f"--commits {part}")
    wanted = Wanted(
        env=env,
        sandbox=sandbox,
        sandbox_opts=tuple(sandbox_opt or ()),
        commits=commits if part is None else str(part),
        concurrency=concurrency,
        timeout_s=timeout,
        output=output,
        write=write,
        again=again,
    )
    words = StorageWords.of(storage, storage_opt)
    report, where = run_async(lambda: _until_signal(lambda: _evaluate(trajectory, wanted, words)))
    if json:
        out_json({"report": where, **report.summary(), "environment_hash": report.environment_hash})
    else:
        _print(report, where)
    if report.summary()["errors"]:
        note("some commits could not be tested: the same command again tries them once more")
        raise typer.Exit(EXIT_NOT_ALL)


async def _until_signal[T](work: Callable[[], Awaitable[T]]) -> T:
    """A signal ends the work: its sandboxes are closed and its report is saved, and then this raises.

    Raises:
        InterruptedRunError: There was one.
    """
    import anyio

    from envoi_trace_core.background import background_tasks
    from envoi_trace_core.cli.signals import SIGNAL_EXIT_STATUS

    received: list[int] = []
    async with background_tasks() as group:
        with anyio.CancelScope() as scope:

            async def watch() -> None:
                with anyio.open_signal_receiver(*SIGNAL_EXIT_STATUS) as signals:
                    async for number in signals:
                        note(f"{number.name}: the report is being saved and the sandboxes closed")
                        received.append(SIGNAL_EXIT_STATUS[number])
                        scope.cancel()

            group.start_soon(watch)
            return await work()
    raise InterruptedRunError(
        "interrupted; what was found stands in the report, and the same command goes on with it",
        exit_status=received[0] if received else 130,
    )


async def _evaluate(word: str, wanted: Wanted, words: StorageWords) -> tuple[EvaluationReport, str]:
    from envoi_trace_core.analysis.evaluate import EvaluationPlan, OfflineEvaluation
    from envoi_trace_core.analysis.evaluate_commits import choose_commits
    from envoi_trace_core.analysis.evaluate_merge import check_may_merge, merge
    from envoi_trace_core.analysis.evaluate_report import open_report
    from envoi_trace_core.domain.environments import load_environment
    from envoi_trace_core.options import parse_options
    from envoi_trace_core.plugins import Plugins

    plugins = Plugins.load()
    environment = load_environment(Path(wanted.env))
    spec = plugins.sandbox(wanted.sandbox)
    options = parse_options(spec.options, wanted.sandbox_opts, "sandbox", wanted.sandbox)
    async with _open(word, wanted, words) as source:
        chosen = choose_commits(source.trace, wanted.commits)
        store = source.report_store(wanted.output, environment.content_hash)
        if wanted.write:
            check_may_merge(source.trace, environment.content_hash, [each.commit for each in chosen])
        with TemporaryDirectory(prefix="envoi-trace-evaluate-") as scratch:
            git = await source.repository(source.trace, chosen[-1].commit if chosen else "", Path(scratch))
            plan = EvaluationPlan(
                trace=source.trace,
                commits=chosen,
                environment=environment,
                sandbox=spec,
                sandbox_options=options,
                runs_model=_runs_model(plugins, source.trace.trajectory.agent),
                secrets=spec.secrets(options),
                concurrency=wanted.concurrency,
                timeout_s=wanted.timeout_s,
                git=git,
            )
            new = plan.new_report()
            work = OfflineEvaluation(
                plan=plan,
                report=new if wanted.again else await open_report(store, new),
                store=store,
                note=note,
                on_result=_tell,
            )
            report = await work.run()
        if wanted.write:
            assert source.storage is not None
            assert source.lease is not None
            changed = await merge(source.storage, source.lease, report, note)
            note(f"{changed} results that the trace did not have are in it now")
    return report, store.where


@attrs.define(kw_only=True)
class _Source:
    """A trace, and what belongs to it."""

    trace: Trace
    path: Path | None = None
    storage: Storage | None = None
    lease: Lease | None = None

    def report_store(self, output: Path | None, environment_hash: str) -> ReportStore:
        from envoi_trace_core.analysis.evaluate_report import ReportFile, StoredReport

        if output is not None:
            return ReportFile(path=output)
        if self.storage is not None:
            return StoredReport(
                storage=self.storage,
                trajectory_id=self.trace.trajectory.trajectory_id,
                environment_hash=environment_hash,
            )
        assert self.path is not None
        return ReportFile(path=self.path.parent / "evaluations" / f"{environment_hash[:16]}.json")

    async def repository(self, trace: Trace, commit: str, scratch: Path) -> Git:
        from anyio import to_thread

        from envoi_trace_core.repo.bundles import open_bundles
        from envoi_trace_core.run.stored_repository import repository_with

        if self.storage is not None:
            return await repository_with(self.storage, trace.trajectory.trajectory_id, commit, scratch)
        assert self.path is not None
        bundle = self.path.with_name("repo.bundle")
        if not bundle.is_file():
            raise UsageError(f"there is no {bundle}", mend="put the trajectory's repo.bundle beside its trace")
        return await to_thread.run_sync(open_bundles, [bundle], scratch / "repo.git")


@asynccontextmanager
async def _open(word: str, wanted: Wanted, words: StorageWords) -> AsyncIterator[_Source]:
    from envoi_trace_core.trace.lease import Lease
    from envoi_trace_core.trace.lookup import read_trajectory, resolve_id
    from envoi_trace_core.trace.reader import read_trace

    path = trace_file(word)
    if path is not None:
        if wanted.write:
            raise UsageError(
                "--write needs the trajectory's id: only its storage keeps a second writer away",
                mend="envoi-trace evaluate ID --write, with --storage-opt root=FOLDER for a local one",
            )
        yield _Source(trace=read_trace(path), path=path)
        return
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(words.open())
        trajectory_id = await resolve_id(storage, word)
        lease = None
        try:
            lease = await stack.enter_async_context(Lease.hold(storage, trajectory_id))
        except StorageError as error:
            if wanted.write:
                raise
            note(f"the trajectory is not held, so `envoi-trace cleanup` may end the sandboxes: {error.message}")
        yield _Source(trace=await read_trajectory(storage, trajectory_id), storage=storage, lease=lease)


def _runs_model(plugins: object, agent: str) -> bool:
    from envoi_trace_core.errors import EnvoiTraceError
    from envoi_trace_core.plugins import Plugins

    assert isinstance(plugins, Plugins)
    try:
        return plugins.agent(agent).runs_model
    except EnvoiTraceError:
        return True  # an agent that is not installed here: better safe


# -- what is told -----------------------------------------------------------------------------------


def _tell(result: CommitResult, done: int, total: int) -> None:
    note(f"{done}/{total}  part {result.part} [{result.commit[:8]}] {_words(result)}")


def _words(result: CommitResult) -> str:
    if result.status == "completed":
        return f"{result.counts.passed}/{result.counts.total} passed"
    first_line = (result.error or "").strip().partition("\n")[0]
    return printable(f"{result.status.replace('_', ' ')}: {first_line}"[:200])


def _recorded(result: CommitResult) -> str:
    recorded = result.recorded
    if recorded is None:
        return "-"
    if recorded.status == "completed":
        return f"{recorded.counts.passed}/{recorded.counts.total}"
    return recorded.status.replace("_", " ")


def _print(report: EvaluationReport, where: str) -> None:
    summary = report.summary()
    out_table(
        ["part", "commit", "in the trace", "now"],
        [[str(each.part), each.commit[:8], _recorded(each), _words(each)] for each in report.commits],
        right=(0,),
    )
    out()
    best = summary["best"]
    version = "as in the run" if report.is_of_run_environment else "not the version of the run"
    out_fields(
        [
            ("environment", f"{report.environment} {report.environment_hash[:12]} ({version})"),
            ("evaluated", f"{summary['evaluated']} of {summary['commits']} commits"),
            ("best", None if best is None else f"{best['share']:.0%} at part {best['part']}"),
            ("solved", None if summary["solved_part"] is None else f"at part {summary['solved_part']}"),
            ("differ", f"{summary['differ_from_the_trace']} from what the trace has"),
            ("report", where),
        ]
    )
