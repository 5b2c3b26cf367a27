"""Drives the player: hands over prompts, reads its events by offset, interrupts, and takes it up again.

A session goes through one process after the other, numbered from 1: a new one follows one that died. What a
process wrote is read to its end before the next one is looked at, so no event is missed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import attrs

from envoi_trace_core.builtin.script.actions import load_script, script_path
from envoi_trace_core.builtin.script.install import PlayerHome
from envoi_trace_core.builtin.script.player.main import VERSION
from envoi_trace_core.builtin.script.position import PlayerEvent, PlayerState, Position, without_turn
from envoi_trace_core.builtin.script.spec import ScriptOptions
from envoi_trace_core.errors import AgentError
from envoi_trace_core.protocols import AgentOutput, AgentSession, ResumeState
from envoi_trace_core.sandboxing.detached import DetachedProcess
from envoi_trace_core.specs import AgentContext

INTERRUPT_TIMEOUT_S = 15.0
"""How long the player may take to end a turn before it is killed: a checkpoint may be under way."""
EXIT_TIMEOUT_S = 10.0
STDERR_BYTES = 2000


@asynccontextmanager
async def open_session(context: AgentContext, options: ScriptOptions) -> AsyncIterator[AgentSession]:
    """Begin a session, or take one up; leaving the context ends its processes.

    Raises:
        UsageError: There is no script, or it is wrong; nothing was started.
    """
    actions = load_script(script_path(context.task_dir, options.script))
    resume = context.resume
    session_id = resume.session_id if resume else f"script-{uuid.uuid4().hex[:12]}"
    session = ScriptSession(home=PlayerHome(sandbox=context.sandbox, session_id=session_id))
    if resume is None or not resume.same_sandbox or not await session.find_processes(resume):
        await session.home.install(context, actions)
        if resume is not None:
            await session.restore(resume)
    try:
        yield session
    finally:
        with anyio.move_on_after(2 * EXIT_TIMEOUT_S, shield=True):
            await session.close()


@attrs.define(kw_only=True)
class ScriptSession:
    """One session of the script agent; see `AgentSession`."""

    home: PlayerHome
    _position: Position = attrs.field(default=Position(0, 0, 0), init=False)
    """Where the reading stands."""
    _newest: DetachedProcess | None = attrs.field(default=None, init=False)
    """The process that takes prompts; what is read may still be an earlier one's."""
    _newest_number: int = attrs.field(default=0, init=False)
    _turn_in_flight: bool = attrs.field(default=False, init=False)
    _turn_ended: anyio.Event | None = attrs.field(default=None, init=False)
    _interrupted: bool = attrs.field(default=False, init=False)

    @property
    def session_id(self) -> str:
        """Part of the id of every item, so that items are told apart through all sessions of a trajectory."""
        return self.home.session_id

    @property
    def agent_version(self) -> str | None:
        """The player's."""
        return VERSION

    @property
    def turn_in_flight(self) -> bool:
        """Whether there is a turn to go on with."""
        return self._turn_in_flight

    # -- beginning and end ------------------------------------------------------------------------

    async def find_processes(self, resume: ResumeState) -> bool:
        """Take up what an earlier orchestrator left in this sandbox; False when it had started no process."""
        self._position = Position.parse(resume.position)
        number = self._position.process_number
        # The process of the last event may have been another sandbox's; then the next one is this sandbox's first.
        while (found := await self._attach(number)) is not None or number == self._position.process_number:
            if found is not None:
                self._newest, self._newest_number = found, number
            number += 1
        if self._newest is None:
            return False
        is_working = await self._is_working()
        self._turn_in_flight = resume.turn_in_flight and is_working
        if is_working and not resume.turn_in_flight and await self._newest.is_alive():
            await self._newest.write(_message("interrupt"))
        return True

    async def restore(self, resume: ResumeState) -> None:
        """Make a fresh folder's state that of the last event that was recorded."""
        self._position = Position.parse(resume.position)
        self._newest_number = self._position.process_number
        self._turn_in_flight = resume.turn_in_flight and resume.prompt_arrived
        state = attrs.evolve(
            PlayerState.parse(resume.archive),
            next_action=self._position.next_action,
            turn_id=uuid.uuid4().hex if self._turn_in_flight else None,
        )
        await self.home.write_state(state.to_json())

    async def close(self) -> None:
        """End the player and all that it started."""
        process = self._newest
        if process is None or not await process.is_alive():
            return
        with anyio.move_on_after(EXIT_TIMEOUT_S):
            await process.write(_message("exit"))
            while await process.is_alive():  # noqa: ASYNC110  # it lives in the sandbox: nothing here tells its end
                await anyio.sleep(0.02)
            return
        await process.kill()

    # -- turns ------------------------------------------------------------------------------------

    async def turn(self, prompt: str | None) -> AsyncGenerator[AgentOutput]:
        """Play until the script hands back; see `AgentSession.turn`."""
        turn_id = None if prompt is None else uuid.uuid4().hex
        self._interrupted = False
        self._turn_ended = anyio.Event()
        try:
            process = await self._running_process(goes_on=prompt is None)
            if prompt is not None:
                await process.write(_message("prompt", turn_id=turn_id, text=prompt))
            async with aclosing(self._events()) as events:
                async for output, event in events:
                    is_last = event.ends_turn and turn_id in (None, event.turn_id)
                    yield attrs.evolve(output, hands_back=is_last and event.type == "turn.completed")
                    if is_last:
                        if event.type == "turn.failed":
                            raise AgentError(event.message or "the script agent failed")
                        return
        finally:
            self._turn_in_flight = False
            self._turn_ended.set()

    async def _events(self) -> AsyncGenerator[tuple[AgentOutput, PlayerEvent]]:
        """What the processes write, one after the other; ends only with an interrupt."""
        while True:
            process = await self._attach(self._position.process_number)
            if process is not None:
                async with aclosing(process.lines(self._position.offset)) as lines:
                    async for line in lines:
                        event = PlayerEvent.parse(line.data)
                        at = self._position.next_action if event.next_action is None else event.next_action
                        self._position = attrs.evolve(self._position, offset=line.end_offset, next_action=at)
                        raw = line.data.decode(errors="replace")
                        yield AgentOutput(raw=raw, position=str(self._position)), event
            if self._position.process_number < self._newest_number:
                number = self._position.process_number + 1
                self._position = attrs.evolve(self._position, process_number=number, offset=0)
            elif self._interrupted or process is None:
                return
            else:
                raise await _death(process)

    async def interrupt(self) -> None:
        """End the turn at once, with the command that it runs; a player that does not is killed."""
        ended = self._turn_ended
        if self._newest is None or ended is None or ended.is_set():
            return
        self._interrupted = True
        with anyio.move_on_after(INTERRUPT_TIMEOUT_S) as scope:
            await self._newest.write(_message("interrupt"))
            await ended.wait()
        if scope.cancelled_caught:
            await self._newest.kill()

    async def save_state(self) -> bytes | None:
        """The player's state file."""
        return await self.home.read_state()

    # -- processes --------------------------------------------------------------------------------

    async def _attach(self, number: int) -> DetachedProcess | None:
        return await DetachedProcess.attach(self.home.sandbox, self._name(number))

    def _name(self, number: int) -> str:
        return f"{self.session_id}-{number}"

    async def _running_process(self, *, goes_on: bool) -> DetachedProcess:
        """The newest process; a further one when it died.

        Args:
            goes_on: Whether a new process takes up the turn that the dead one left.
        """
        if self._newest is not None and await self._newest.is_alive():
            return self._newest
        if goes_on and self._newest is not None and not await self._is_working():
            raise await _death(self._newest)  # before it took up its prompt: nothing would ever end that turn
        state = await self.home.read_state()
        if state is not None and not goes_on:
            await self.home.write_state(without_turn(state))
        self._newest = await self.home.start(self._name(self._newest_number + 1))
        self._newest_number += 1
        return self._newest

    async def _is_working(self) -> bool:
        """Whether there is a turn to go on with: one whose end was not read.

        A prompt that was handed over may not have been taken up yet; and an orchestrator that died before it handed
        one over leaves a player that waits, and that has told of nothing but its own start.
        """
        assert self._newest is not None
        handed_over = PlayerEvent.parse(await self._newest.last_input('{"type": "prompt"')).turn_id
        was_alive = await self._newest.is_alive()  # before the state: a dead player's is its last
        state = PlayerState.parse(await self.home.read_state())
        if state.turn_id is not None:
            return True
        awaited = {state.untold_end, handed_over if was_alive else None} - {None}
        first_unread = max(self._position.process_number, 1)
        ended = await self._ended_turns(1)
        # Looked at last: an end that comes meanwhile is at least in one of them.
        unread = await self._ended_turns(first_unread, self._position.offset)
        return bool(unread) or not awaited <= ended

    async def _ended_turns(self, number: int, offset: int = 0) -> set[str]:
        """The turns whose end was told by that process, from an offset on, or by a later one."""
        ended = await self.home.ended_turns(self._name(number), offset)
        for later in range(number + 1, self._newest_number + 1):
            ended |= await self.home.ended_turns(self._name(later))
        return ended


async def _death(process: DetachedProcess) -> AgentError:
    code = await process.exit_code()
    said = (await process.stderr_tail(STDERR_BYTES)).decode(errors="replace").strip()
    how = "was killed" if code is None else f"died with status {code}"
    return AgentError(f"the script agent's process {how}" + (f": {said}" if said else ""))


def _message(kind: str, **fields: str | None) -> bytes:
    return json.dumps({"type": kind, **fields}).encode() + b"\n"
