"""One session of OpenCode, over its driver: prompts, events by offset, interrupts, and taking it up again.

A session goes through one driver after the other, numbered from 1: a new one follows one that died. What a driver
wrote is read to its end before the next one is looked at, so no event is missed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import anyio
import attrs

from envoi_trace_core.protocols import AgentOutput, ResumeState
from envoi_trace_core.sandboxing.detached import DetachedProcess
from envoi_trace_opencode.driver.archive import TOO_LARGE
from envoi_trace_opencode.failures import driver_death, silent, start_failure, turn_failure
from envoi_trace_opencode.home import MAX_ARCHIVE_BYTES, OpenCodeHome
from envoi_trace_opencode.position import DriverEvent, Position, prompt_id

INTERRUPT_TIMEOUT_S = 20.0
"""How long the driver may take to end a turn before it is killed: it gives the server less."""
EXIT_TIMEOUT_S = 12.0
STDERR_BYTES = 4000


@attrs.define(kw_only=True)
class OpenCodeSession:
    """See `AgentSession`."""

    home: OpenCodeHome
    key: str = attrs.field(repr=False)
    start_timeout_s: float
    report: Callable[[str], None]
    session_id: str = attrs.field(default="", init=False)
    agent_version: str | None = attrs.field(default=None, init=False)
    turn_in_flight: bool = attrs.field(default=False, init=False)
    _position: Position = attrs.field(init=False)
    _process: DetachedProcess | None = attrs.field(default=None, init=False)
    """The newest driver; the position may still be in an earlier one."""
    _turn_ended: anyio.Event | None = attrs.field(default=None, init=False)
    _is_interrupted: bool = attrs.field(default=False, init=False)
    _told_too_large: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._position = self.home.beginning()

    # -- beginning and end ------------------------------------------------------------------------

    async def take_up(self, resume: ResumeState) -> bool:
        """Go on with what an earlier orchestrator left in this sandbox; False when a new driver is needed."""
        self.session_id = resume.session_id
        position = Position.parse(resume.position)
        if position is not None and position.home_id == self.home.id:
            self._position = position
        newest, process = await self._newest()
        self._process = process
        if process is None or not await process.is_alive():
            return False
        handed_over = prompt_id(await process.last_input('{"type": "prompt"'))
        state = await self.home.state()
        at = self._position.offset if self._position.number == newest.number else 0
        # A prompt may have been handed over that the driver has not taken up yet.
        is_working = state.turn_id is not None or handed_over not in (None, state.last_turn_id)
        self.turn_in_flight = resume.turn_in_flight and (is_working or state.turn_ended_at > at)
        await self._await_ready()
        if is_working and not resume.turn_in_flight:
            await process.write(_command("interrupt"))
        return True

    async def start(self) -> None:
        """Start a driver, the first or a further one, and wait until it takes prompts.

        Raises:
            AgentError: OpenCode does not start.
            SandboxError: The sandbox failed.
        """
        newest, process = await self._newest()
        if process is not None:
            await process.kill()
            newest = newest.next_process()
        self._process = await self.home.start(newest.process_name, self.key, self.session_id)
        await self._await_ready()

    async def _newest(self) -> tuple[Position, DetachedProcess | None]:
        """The last driver of this home; the first, and None, when there is none."""
        position, process = self.home.beginning(), None
        while (found := await self.home.attach(position)) is not None:
            process, position = found, position.next_process()
        return (Position(position.home_id, position.number - 1, 0), process) if process else (position, None)

    async def _await_ready(self) -> None:
        process = self._process
        assert process is not None
        with anyio.move_on_after(2 * self.start_timeout_s) as scope:
            async with aclosing(process.lines(0)) as lines:
                async for line in lines:
                    event = DriverEvent.parse(line.data)
                    if event.kind == "failed":
                        raise start_failure(event)
                    if event.kind == "session.ready" and event.session_id:
                        self.session_id, self.agent_version = event.session_id, event.version
                        return
        if scope.cancelled_caught:
            raise silent(2 * self.start_timeout_s)
        raise driver_death(await process.exit_code(), await process.stderr_tail(STDERR_BYTES))

    async def close(self) -> None:
        """End the driver, the server and all that the agent started."""
        process = self._process
        if process is None or not await process.is_alive():
            return
        with anyio.move_on_after(EXIT_TIMEOUT_S) as scope:
            await process.write(_command("exit"))
            offset = self._position.offset if self._position.process_name == process.name else 0
            async with aclosing(process.lines(offset)) as lines:
                async for _line in lines:
                    pass
        if scope.cancelled_caught or await process.is_alive():
            await process.kill()

    # -- turns ------------------------------------------------------------------------------------

    async def turn(self, prompt: str | None) -> AsyncGenerator[AgentOutput]:
        """Every event until OpenCode hands back; see `AgentSession.turn`."""
        turn_id = None if prompt is None else uuid.uuid4().hex
        self._is_interrupted = False
        self._turn_ended = anyio.Event()
        try:
            if prompt is not None:
                process = await self._living_driver()
                await process.write(_command("prompt", turn_id=turn_id, text=prompt))
            async with aclosing(self._events()) as events:
                async for output, event in events:
                    is_last = event.kind == "turn.ended" and turn_id in (None, event.turn_id)
                    yield attrs.evolve(output, hands_back=is_last and event.status == "completed")
                    if is_last:
                        if event.status == "failed" and not self._is_interrupted:
                            raise turn_failure(event)
                        return
        finally:
            self.turn_in_flight = False
            self._turn_ended.set()

    async def _events(self) -> AsyncGenerator[tuple[AgentOutput, DriverEvent]]:
        """What the drivers write, from the position on; ends only with an interrupt that killed the driver."""
        while True:
            process = await self.home.attach(self._position)
            if process is None:
                raise driver_death(None, b"")
            async with aclosing(process.lines(self._position.offset)) as lines:
                async for line in lines:
                    self._position = attrs.evolve(self._position, offset=line.end_offset)
                    raw = line.data.decode("utf-8", "replace")
                    yield AgentOutput(raw=raw, position=str(self._position)), DriverEvent.parse(line.data)
            if self._process is not None and self._process.name != process.name:
                self._position = self._position.next_process()
                continue
            if self._is_interrupted:
                return
            raise driver_death(await process.exit_code(), await process.stderr_tail(STDERR_BYTES))

    async def _living_driver(self) -> DetachedProcess:
        if self._process is None or not await self._process.is_alive():
            await self.start()
        assert self._process is not None
        return self._process

    async def interrupt(self) -> None:
        """End the turn at once, with all that it started; a driver that does not is killed."""
        ended = self._turn_ended
        if self._process is None or ended is None or ended.is_set():
            return
        self._is_interrupted = True
        with anyio.move_on_after(INTERRUPT_TIMEOUT_S) as scope:
            await self._process.write(_command("interrupt"))
            await ended.wait()
        if scope.cancelled_caught:
            await self._process.kill()

    async def save_state(self) -> bytes | None:
        """OpenCode's database, as of one moment."""
        saved = await self.home.save()
        if saved == TOO_LARGE and not self._told_too_large:
            self._told_too_large = True
            self.report(f"OpenCode's record of its session is above {MAX_ARCHIVE_BYTES >> 20} MiB: it is not saved")
        return saved if isinstance(saved, bytes) else None


def _command(kind: str, **fields: str | None) -> bytes:
    return json.dumps({"type": kind, **fields}).encode() + b"\n"
