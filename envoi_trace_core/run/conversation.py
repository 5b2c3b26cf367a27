"""Turn after turn with the agent, until the run must end."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import anyio
import attrs

from envoi_trace_core.domain.facts import SessionBegun, TurnBegun, TurnEnded
from envoi_trace_core.domain.solving import follow_up_prompt
from envoi_trace_core.errors import EnvoiTraceError
from envoi_trace_core.protocols import AgentSession
from envoi_trace_core.run.archive import Archive
from envoi_trace_core.run.beside import CANCEL, run_beside
from envoi_trace_core.run.budgets import STALLED_TURNS
from envoi_trace_core.run.observer import Observer
from envoi_trace_core.run.plan import RunPlan
from envoi_trace_core.run.recorder import Recorder
from envoi_trace_core.run.stop import StopRequest, StopSignal
from envoi_trace_core.run.turns import TurnLimits, TurnRunner
from envoi_trace_core.run.workplace import Workplace
from envoi_trace_core.specs import AgentContext

ACTIONS = frozenset({"tool", "tool_use", "tool_result", "patch"})
"""Part types by which an agent does something; a turn without any is an idle one."""

SAVE_STATE_EVERY_S = 60.0
"""How often the agent's own state is saved in the middle of a turn."""
SAVE_STATE_TIMEOUT_S = 60.0
WRAP_UP_TIMEOUT_S = 120.0


@attrs.define(kw_only=True)
class Conversation:
    """The agent's side of one attempt."""

    plan: RunPlan
    archive: Archive
    workplace: Workplace
    observer: Observer
    stop: StopSignal
    deadline: float

    async def hold(self) -> None:
        """Prompt the agent until `stop` is set.

        Raises:
            AgentError: The agent failed.
            SandboxError: Its sandbox failed.
            HarnessError: The environment failed.
        """
        context = AgentContext(
            sandbox=self.workplace.agent.sandbox,
            trajectory_id=self.plan.config.trajectory_id,
            task_dir=self.plan.task.directory,
            model=self.plan.config.model,
            mcp_servers=(self.workplace.tool.mcp_server(),),
            checkpoint_command=self.workplace.repository.hook_command,
            resume=self.archive.resume_state(same_sandbox=self.workplace.agent.is_same),
            report=self.observer.note,
        )
        async with self.plan.agent.spec.create(context, self.plan.agent.options) as session:
            recorder = await self._begin_session(session)
            try:
                await self._take_turns(session, recorder)
            finally:
                with anyio.move_on_after(WRAP_UP_TIMEOUT_S, shield=True):
                    await self._wrap_up(session, recorder)

    async def _begin_session(self, session: AgentSession) -> Recorder:
        archive = self.archive
        recorder = Recorder(
            session_id=session.session_id,
            turn=max(archive.state.turn_count, 1),
            parser=self.plan.parser.create(),
            ledger=archive.ledger,
            events=archive.events,
            repository=self.workplace.repository,
            redactor=archive.redactor,
            max_parts=self.plan.config.max_parts,
            price=self.plan.price,
            sandbox_was_lost=not self.workplace.agent.is_same,
        )
        await archive.ledger.add(
            SessionBegun(session_id=session.session_id, at=datetime.now(UTC), agent_version=session.agent_version)
        )
        await recorder.replay(stored.event for stored in archive.counted_events(session.session_id))
        return recorder

    async def _take_turns(self, session: AgentSession, recorder: Recorder) -> None:
        runner = TurnRunner(
            session=session,
            record=recorder.take,
            budget_reached=lambda: self.plan.budgets.reached(self.archive.state),
            calls_settled=lambda: not (self.workplace.tool.calls_in_flight or self.archive.ledger.unclaimed_calls()),
            stop=self.stop,
            limits=TurnLimits(
                idle_timeout_s=self.plan.config.idle_timeout_s,
                turn_timeout_s=self.plan.config.turn_timeout_s,
                deadline=self.deadline,
                timeout_s=self.plan.config.timeout_s,
            ),
        )
        if not session.turn_in_flight:
            await self._end_turn_of_before(session, recorder)
            if self.archive.state.part_count:
                await self._wait_for_evaluation()
        idle_turns = 0
        is_new_session = sum(s.session_id == session.session_id for s in self.archive.state.sessions) == 1
        while not self._must_end(idle_turns):
            parts_before = self.archive.state.part_count
            await self._take_turn(session, recorder, runner, is_new_session=is_new_session)
            is_new_session = False
            idle_turns = 0 if self._acted_since(parts_before) else idle_turns + 1
            if not self.stop.is_set:
                await self._wait_for_evaluation()

    async def _wait_for_evaluation(self) -> None:
        """Know how the newest commit stands before the agent is told, and before the run goes on for nothing."""

        async def until_stop() -> object:
            await self.stop.wait()
            return CANCEL

        with anyio.move_on_after(max(self.deadline - time.monotonic(), 0.0)):
            await run_beside(self.workplace.evaluate_head, until_stop)

    def _must_end(self, idle_turns: int) -> bool:
        budget = self.plan.budgets.reached(self.archive.state)
        max_turns = self.plan.config.max_turns
        if budget is not None:
            self.stop.ask(StopRequest(reason=budget))
        elif max_turns is not None and self._ended_turns() >= max_turns:
            self.stop.ask(StopRequest(reason="turn_limit"))
        elif self.workplace.move is not None and self.workplace.move.is_due:
            self.stop.ask(self.workplace.move.request())
        elif idle_turns >= STALLED_TURNS:
            message = f"{idle_turns} turns in a row without any action"
            self.stop.ask(StopRequest(reason="stalled", message=message))
        return self.stop.is_set

    def _ended_turns(self) -> int:
        return sum(turn.ended_at is not None for turn in self.archive.state.turns.values())

    async def _take_turn(
        self, session: AgentSession, recorder: Recorder, runner: TurnRunner, *, is_new_session: bool
    ) -> None:
        open_turn = self.archive.state.open_turn
        turn = open_turn if open_turn is not None else self.archive.state.turn_count + 1
        recorder.turn = turn
        if open_turn is not None and session.turn_in_flight:
            prompt = None
        else:
            prompt = self._prompt(is_new_session=is_new_session)
            if open_turn is None:
                begun = TurnBegun(
                    turn=turn,
                    session_id=session.session_id,
                    prompt=prompt,
                    at=datetime.now(UTC),
                    event_index=self.archive.events.next_index - 1,
                )
                await self.archive.ledger.add(self.archive.redactor.value(begun))
        with self.archive.turn_in_progress():
            await run_beside(lambda: runner.run(prompt), lambda: self._save_state_now_and_then(session))
        await self._end_turn(session, recorder, turn)

    async def _end_turn(self, session: AgentSession, recorder: Recorder, turn: int) -> None:
        await recorder.end_turn()
        if not self._goes_on_later():
            await self.archive.ledger.add(self._end_of(turn))
        await self._save_state(session)

    async def _end_turn_of_before(self, session: AgentSession, recorder: Recorder) -> None:
        """End the turn in which the agent had handed back when the orchestrator died, before that was recorded."""
        turn = self.archive.state.open_turn
        told = self.archive.events_of_open_turn(session.session_id)
        if turn is not None and any(stored.hands_back for stored in told):
            recorder.turn = turn
            await self._end_turn(session, recorder, turn)

    def _goes_on_later(self) -> bool:
        """Whether the turn was cut by what is no matter of the agent's: it goes on under its number, here or anew."""
        request = self.stop.request
        return request is not None and (request.moves or (request.worth_restarting and request.reason != "timeout"))

    def _end_of(self, turn: int) -> TurnEnded:
        if self.stop.is_set:
            return TurnEnded(turn=turn, at=datetime.now(UTC), interrupted=True)
        return TurnEnded(turn=turn, at=datetime.now(UTC), event_index=self.archive.events.next_index - 1)

    def _prompt(self, *, is_new_session: bool) -> str:
        """The task for a new session; how the tests stand for one that goes on; both after a lost session."""
        state = self.archive.state
        if not state.part_count:
            return self.plan.task.prompt
        status = follow_up_prompt(self.archive.visible_status())
        return f"{self.plan.task.prompt}\n\n{status}" if is_new_session else status

    def _acted_since(self, parts_before: int) -> bool:
        return any(row.part.part_type in ACTIONS for row in self.archive.state.rows[parts_before:])

    # -- the agent's own state --------------------------------------------------------------------

    async def _save_state_now_and_then(self, session: AgentSession) -> None:
        saved_at_part = self.archive.state.part_count
        while True:
            await anyio.sleep(SAVE_STATE_EVERY_S)
            if self.archive.state.part_count > saved_at_part:
                saved_at_part = self.archive.state.part_count
                await self._save_state(session)

    async def _save_state(self, session: AgentSession) -> None:
        """Keep the agent's own state, if it can be had: a failure here must not end, or hide the end of, a run."""
        try:
            with anyio.fail_after(SAVE_STATE_TIMEOUT_S):
                state = await session.save_state()
            if state is not None:
                await self.archive.save_agent_state(session.session_id, state)
        except (EnvoiTraceError, TimeoutError, OSError) as error:
            self.observer.note(f"the agent's own state could not be saved: {error or 'no answer in time'}")

    async def _wrap_up(self, session: AgentSession, recorder: Recorder) -> None:
        """Close what is open. After a failure that a restart will mend, the restart completes it instead."""
        will_restart = not self.stop.is_set and self.plan.config.auto_resume
        if will_restart:
            await self._save_state(session)
            return
        try:
            await recorder.end_turn()
            await recorder.finish()
        except EnvoiTraceError as error:
            self.observer.note(f"what was still open could not be recorded: {error.message}")
