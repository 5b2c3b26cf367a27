"""The durable side of a run: what outlives every sandbox, this program and this machine.

Data is written before what refers to it: events before parts, commits before the parts that name them, and all of
them before the fact that the run has ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.domain.facts import (
    CallRecorded,
    CallsClaimed,
    Fact,
    PartRecorded,
    TrajectoryBegun,
    TrajectoryEnded,
)
from envoi_trace_core.domain.parts import Evaluation
from envoi_trace_core.domain.solving import VisibleStatus, visible_status
from envoi_trace_core.errors import StorageError
from envoi_trace_core.protocols import ResumeState, Storage
from envoi_trace_core.repo.archives import write_bundle
from envoi_trace_core.repo.git import Git
from envoi_trace_core.run.ledger import Ledger, note_recorded
from envoi_trace_core.run.observer import Observer
from envoi_trace_core.run.outcome import RunEnd, RunOutcome, outcome_of
from envoi_trace_core.run.plan import RunPlan
from envoi_trace_core.run.preserve import Moment, Preserver
from envoi_trace_core.run.restoring import MIRROR, bring_back, events_left_out, newest_event
from envoi_trace_core.run.resume import AgentStateFile, check_same_run, new_trajectory, stored_config
from envoi_trace_core.run.run_log import LoggedObserver
from envoi_trace_core.run.stop_requests import forget_old_request
from envoi_trace_core.state import trajectory_dir
from envoi_trace_core.trace.events import EventLog, StoredEvent, compress_events, read_events
from envoi_trace_core.trace.fold import TraceState
from envoi_trace_core.trace.journal import Journal, read_journal
from envoi_trace_core.trace.keys import (
    bundle_key,
    config_key,
    events_key,
    events_path,
    journal_path,
    log_key,
    log_path,
    trace_key,
)
from envoi_trace_core.trace.lease import Lease
from envoi_trace_core.trace.line_log import storage_error
from envoi_trace_core.trace.redact import Redactor
from envoi_trace_core.trace.redact_archive import masked_state
from envoi_trace_core.trace.writer import TraceWriter

FLUSH_TIMEOUT_S = 120.0
PRESERVE_TIMEOUT_S = 30.0


@attrs.define(kw_only=True)
class Archive:
    """One trajectory's record, held by one writer."""

    plan: RunPlan
    observer: Observer
    """Writes the run's log too."""
    storage: Storage
    ledger: Ledger
    events: EventLog
    lease: Lease
    redactor: Redactor
    writer: TraceWriter
    preserver: Preserver
    agent_state: AgentStateFile
    is_resumed: bool
    left_out: Sequence[range]
    """Indices of native events that came after the last part of an earlier end: they stay in the events log only."""
    newest_counted: int
    """The newest native event that counted when the trajectory was opened; 0 for none."""
    on_commit: Callable[[str], None] = lambda _commit: None
    """Told of each commit that a part made."""

    is_over: bool = attrs.field(default=False, init=False)
    """Whether it ended for good, and all of it is in the storage: this machine need not keep anything."""
    _turn_over: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _unsaved: list[str] = attrs.field(factory=list, init=False)
    """What could not be uploaded at the end."""

    def __attrs_post_init__(self) -> None:
        self._turn_over.set()

    # -- what it says -----------------------------------------------------------------------------

    @property
    def state(self) -> TraceState:
        """The fold of all facts."""
        return self.ledger.state

    @property
    def id(self) -> str:
        """The trajectory's."""
        return self.plan.config.trajectory_id

    @property
    def trace_uri(self) -> str:
        """Where the trace stands."""
        return self.storage.uri(trace_key(self.id))

    @property
    def bundle_uri(self) -> str:
        """Where the repository will stand."""
        return self.storage.uri(bundle_key(self.id))

    @property
    def mirror_dir(self) -> Path:
        """The repository on this machine."""
        return trajectory_dir(self.id) / MIRROR

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to keep."""
        return self.state.trajectory is not None

    @property
    def evaluations(self) -> Sequence[Evaluation]:
        """All that are known, of any commit."""
        return tuple(self.state.evaluations.values())

    @property
    def calls(self) -> Sequence[CallRecorded]:
        """All test calls that are known, with the answers that the agent may not have yet."""
        claimed = (CallRecorded(call=call) for row in self.state.rows for call in row.part.envoi_calls)
        return (*claimed, *self.state.unclaimed_answers)

    def commits_to_evaluate(self) -> Sequence[str]:
        """Commits whose tests did not run to an end yet."""
        done = {commit for commit, found in self.state.evaluations.items() if found.status in _FINAL}
        return [commit for commit in self.state.commits if commit not in done]

    def visible_status(self) -> VisibleStatus | None:
        """How the newest tested commit stands, as far as the agent may know."""
        evaluation = self.state.newest_evaluation()
        if evaluation is None:
            return None
        return visible_status(evaluation, self.state.test_paths, self.plan.hidden)

    def resume_state(self, *, same_sandbox: bool) -> ResumeState | None:
        """What the agent needs to go on; None when there was no session yet."""
        if not self.state.sessions:
            return None
        session_id = self.state.sessions[-1].session_id
        return ResumeState(
            session_id=session_id,
            position=self._last_position(session_id),
            turn_in_flight=self.state.open_turn is not None,
            prompt_arrived=any(True for _ in self.events_of_open_turn(session_id)),
            archive=self.agent_state.read(session_id),
            same_sandbox=same_sandbox,
        )

    def counted_events(self, session_id: str) -> Iterator[StoredEvent]:
        """The stored events of a session that its parts are made of."""
        for stored in read_events(self.events.path):
            index = stored.event.index
            if stored.event.session_id == session_id and not any(index in indices for indices in self.left_out):
                yield stored

    def events_of_open_turn(self, session_id: str) -> Iterator[StoredEvent]:
        """Those of them that came since the turn began that did not end; none when all ended."""
        turn = self.state.turns.get(self.state.open_turn or 0)
        if turn is not None:
            counted = self.counted_events(session_id)
            yield from (stored for stored in counted if stored.event.index > turn.began_after_event)

    def _last_position(self, session_id: str) -> str | None:
        position = None
        for stored in self.counted_events(session_id):
            position = stored.position
        return position

    # -- what it takes ----------------------------------------------------------------------------

    async def begin(self, *, test_paths: Sequence[str], initial_commit: str | None) -> None:
        """Say what this trajectory is, once it is known, and again when it changed."""
        fact = TrajectoryBegun(
            trajectory=self.redactor.value(new_trajectory(self.plan, self.state.trajectory)),
            test_paths=tuple(test_paths),
            initial_commit=self.state.initial_commit or initial_commit,
        )
        known = TrajectoryBegun(
            trajectory=self.state.trajectory or fact.trajectory,
            test_paths=self.state.test_paths,
            initial_commit=self.state.initial_commit,
        )
        if not self.has_begun or fact != known:
            await self.ledger.add(fact)

    async def note_lost_sandbox(self) -> None:
        """The run was killed, and its sandbox is gone: what the agent told last has no checkpoint, and is done again.

        A run that ended by itself has said that already.
        """
        newest = self.events.next_index - 1
        if self.state.end is None and newest > self.newest_counted:
            self.left_out = (*self.left_out, range(self.newest_counted + 1, newest + 1))
            end = RunEnd(reason="infrastructure_error", message="the run was killed, and its sandbox is gone")
            await self._end(end)
        lost = self.state.unclaimed_calls  # of a workspace that no part has
        if lost:
            await self.ledger.add(CallsClaimed(part=0, call_ids=tuple(call.call_id for call in lost)))
            self.observer.note(f"test calls on a workspace that is lost, and left out: {len(lost)}")

    async def note_call(self, ended: CallRecorded) -> None:
        """A test call ended, as the harness saw it: durable before the agent gets its answer."""
        await self.ledger.add(self.redactor.value(ended))

    @contextmanager
    def turn_in_progress(self) -> Iterator[None]:
        """While a turn runs, an interrupt waits for it to wind down."""
        self._turn_over = anyio.Event()
        try:
            yield
        finally:
            self._turn_over.set()

    async def save_agent_state(self, session_id: str, state: bytes) -> None:
        """Keep an agent's own state, here and in the storage, without the secrets that it may hold.

        Raises:
            StorageError: It can't be opened, so that nobody can say what it holds.
            OSError: It could not be written.
        """
        masked = await anyio.to_thread.run_sync(masked_state, state, self.redactor)
        await anyio.to_thread.run_sync(self.agent_state.write, session_id, masked)
        self.preserver.submit()

    async def is_taken_over(self) -> bool:
        """Whether another run goes on with the trajectory: then nothing of it may be written or ended here."""
        if self.ledger.journal.is_taken_over:
            return True
        return await self.lease.is_taken_over(look=self.writer.fenced is not None)

    async def wait_turn_over(self) -> None:
        """Wait until no turn is in progress."""
        await self._turn_over.wait()

    # -- its end ----------------------------------------------------------------------------------

    async def save(self, end: RunEnd) -> None:
        """Make the end a fact, and upload everything; a step that fails does not keep the next ones from trying."""
        await self._try(partial(self._record_end, end))
        if not self.has_begun:
            return  # not even its beginning could be written: there is nothing to store
        await self._try(self._upload_events)
        await self._try(self._upload_bundle)
        await self._try(self._upload_log)
        await self._try(partial(self.writer.flush, FLUSH_TIMEOUT_S))
        if end.reason == "solved" and not self._unsaved:
            await self._try(self.preserver.remove)
            self.is_over = not self._unsaved
        else:
            await self._try(partial(self.preserver.flush, PRESERVE_TIMEOUT_S))

    async def _record_end(self, end: RunEnd) -> None:
        if not self.has_begun:
            await self.begin(test_paths=(), initial_commit=None)
        await self._end(end)

    async def _end(self, end: RunEnd) -> None:
        await self.ledger.add(
            TrajectoryEnded(
                reason=end.reason,
                message=self.redactor.text(end.message) if end.message else None,
                total_parts=self.state.part_count,
                total_turns=self.state.turn_count,
                final_commit=self.state.head,
                at=datetime.now(UTC),
                total_events=self.events.next_index - 1,
            )
        )

    async def _try(self, step: Callable[[], object]) -> None:
        try:
            result = step()
            assert hasattr(result, "__await__")
            await result
        except StorageError as error:
            self._unsaved.append(error.message)
        except OSError as error:
            self._unsaved.append(storage_error("an artifact could not be made", error).message)

    async def _upload_events(self) -> None:
        with TemporaryDirectory(prefix="envoi-trace-") as folder:
            packed = Path(folder) / "events.jsonl.zst"
            await anyio.to_thread.run_sync(compress_events, self.events.path, packed)
            await self.storage.put(events_key(self.id), packed)

    async def _upload_log(self) -> None:
        if log_path(self.id).exists():
            await self.storage.put(log_key(self.id), log_path(self.id))

    async def _upload_bundle(self) -> None:
        if self.state.head is None:
            return
        with TemporaryDirectory(prefix="envoi-trace-") as folder:
            bundle = Path(folder) / "repo.bundle"
            git = Git(directory=self.mirror_dir)
            await anyio.to_thread.run_sync(partial(write_bundle, git, bundle, since=None))
            await self.storage.put(bundle_key(self.id), bundle)

    def outcome(self, end: RunEnd) -> RunOutcome:
        """What is told of the run."""
        told = self.redactor.value(end)  # an agent's last words may hold what it was given
        return outcome_of(self.state, told, self.id, self.trace_uri, self.bundle_uri, tuple(self._unsaved))


_FINAL = ("completed", "build_failed")


@asynccontextmanager
async def open_archive(plan: RunPlan, observer: Observer, *, restarted: bool = False) -> AsyncIterator[Archive]:
    """Take hold of a trajectory: the lease first, then all that is known of it, here or in the storage.

    Args:
        plan: The run's.
        observer: Told what happens.
        restarted: Whether this program stored the run's configuration at an earlier attempt.

    Raises:
        UsageError: Another run holds it, or what is stored is of another agent, task or environment.
        StorageError: The storage can't be reached.
    """
    trajectory_id = plan.config.trajectory_id
    async with AsyncExitStack() as stack:
        storage = await plan.storage.spec.create(plan.storage.options)
        stack.push_async_callback(storage.close)
        lease = await stack.enter_async_context(Lease.hold(storage, trajectory_id))
        async with _open_held(plan, observer, storage, lease, restarted=restarted) as archive:
            yield archive
        if archive.is_over:
            with suppress(OSError):
                await anyio.to_thread.run_sync(rmtree, trajectory_dir(trajectory_id))


@asynccontextmanager
async def _open_held(
    plan: RunPlan, observer: Observer, storage: Storage, lease: Lease, *, restarted: bool
) -> AsyncIterator[Archive]:
    trajectory_id = plan.config.trajectory_id
    stored = await bring_back(storage, trajectory_id, observer.note)
    redactor = Redactor(plan.secrets)
    observer = LoggedObserver(behind=observer, path=log_path(trajectory_id), redactor=redactor)
    facts, damage = read_journal(journal_path(trajectory_id))
    for line in damage:
        observer.note(f"the journal's line {line.line_number} is lost: {line.reason}")
    state = TraceState.of(facts)
    check_same_run(plan, state)
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(Journal.open(journal_path(trajectory_id)))
        events = stack.enter_context(EventLog.open(events_path(trajectory_id)))
        if not restarted:
            await forget_old_request(storage, trajectory_id)
        if not (restarted or state.is_solved):
            config = redactor.text(stored_config(plan).to_json())  # a label or a parameter may hold a secret too
            await storage.put(config_key(trajectory_id), config.encode())
        writer = await stack.enter_async_context(TraceWriter.open(storage, trajectory_id, state))
        preserver = await stack.enter_async_context(Preserver.open(stored, lease.is_taken_over, observer.note))
        recorded: dict[tuple[int, int], int] = {}
        for fact in facts:
            note_recorded(recorded, fact)
        archive: Archive

        def preserve() -> None:
            preserver.submit(Moment(journal.durable_bytes, events.durable_bytes, state.head))

        def on_fact(fact: Fact) -> None:
            writer.submit()
            preserve()
            observer.fact(fact, state)
            if isinstance(fact, PartRecorded) and fact.part.repo_checkpoint is not None:
                archive.on_commit(fact.part.repo_checkpoint.commit_after)

        archive = Archive(
            plan=plan,
            observer=observer,
            storage=storage,
            ledger=Ledger(journal=journal, state=state, recorded=recorded, on_fact=on_fact, warn=observer.note),
            events=events,
            lease=lease,
            redactor=redactor,
            writer=writer,
            preserver=preserver,
            agent_state=AgentStateFile(folder=trajectory_dir(trajectory_id)),
            is_resumed=bool(facts),
            left_out=events_left_out(facts),
            newest_counted=newest_event(facts),
        )
        if facts:
            preserve()
        yield archive
