"""One Codex thread as an `AgentSession`."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import attrs

from envoi_trace_codex.client import AppServerClient, Message, Position
from envoi_trace_codex.failures import turn_failure
from envoi_trace_codex.home import CodexHome
from envoi_trace_codex.parsing.values import mapping, sequence, text
from envoi_trace_codex.rollout_tail import RolloutTail
from envoi_trace_core.errors import AgentError, SandboxError
from envoi_trace_core.protocols import AgentOutput

CALL_TIMEOUT_S = 60.0
INTERRUPT_TIMEOUT_S = 10.0
"""How long Codex may take over each step of an interrupt (seen: 20 ms), before it is killed."""


@attrs.define(kw_only=True)
class CodexSession:
    """A thread in a running app-server; made by `open_session`."""

    session_id: str
    agent_version: str | None
    home: CodexHome
    client: AppServerClient
    report: Callable[[str], None]
    turn_in_flight: bool = False
    leftover: deque[AgentOutput] = attrs.field(factory=deque)
    """What an earlier process wrote and nobody recorded."""

    rollout: RolloutTail | None = None
    """Where raw items come from after a resume; None when Codex sends them."""

    _turn_id: str | None = attrs.field(default=None, init=False)
    """Of the turn that Codex works on now."""
    _starting: anyio.Event | None = attrs.field(default=None, init=False)
    _interrupted: anyio.Event | None = attrs.field(default=None, init=False)
    _running: set[str] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        """See every message as it is read, also those that nobody took yet."""
        for message in self.client.messages:
            self._note(message)
        self.client.watch(self._note)

    def _note(self, message: Message) -> None:
        """Know which turn and which commands run."""
        if text(message.params.get("threadId")) != self.session_id:
            return
        item = mapping(message.params.get("item"))
        match message.method:
            case "turn/started":
                self._turn_id = _turn_id(message)
            case "turn/completed":
                self._turn_id = None
            case "item/started" if item.get("type") == "commandExecution":
                self._running.add(text(item.get("id")))
            case "item/completed":
                self._running.discard(text(item.get("id")))

    async def learn_turn(self) -> None:
        """Ask which turn is in flight, after an earlier orchestrator started it.

        Raises:
            AgentError: Codex does not answer.
        """
        if self._turn_id is None:
            given = {"threadId": self.session_id, "limit": 1, "sortDirection": "desc"}
            answer = await self.client.call("thread/turns/list", given, timeout_s=CALL_TIMEOUT_S)
            turns = [mapping(turn) for turn in sequence(answer.get("data"))]
            active = [text(turn.get("id")) for turn in turns if turn.get("status") == "inProgress"]
            self._turn_id = active[-1] if active else None

    # -- turns ------------------------------------------------------------------------------------

    async def turn(self, prompt: str | None) -> AsyncGenerator[AgentOutput]:
        """Hand over a prompt, and give every message until the turn is over."""
        while self.leftover:
            yield self.leftover.popleft()
        if prompt is not None:
            awaited = await self._start(prompt)
        elif self.turn_in_flight:
            awaited = ""  # whichever ends next
        else:
            return
        self.turn_in_flight = False
        failure: AgentError | None = None
        while True:
            message = await self.client.next_message()
            if message is None:
                raise await self.client.death()
            is_last = self._ends(message, awaited)
            turn = mapping(message.params.get("turn"))
            async for output in self._outputs(message, hands_back=is_last and turn.get("status") == "completed"):
                yield output
            if is_last:
                failure = turn_failure(turn.get("error")) if turn.get("status") == "failed" else None
                break
        if self._interrupted is not None:
            await self._interrupted.wait()
        while self.client.messages:
            async for output in self._outputs(self.client.messages.popleft()):
                yield output
        if failure is not None:
            raise failure

    async def _outputs(self, message: Message, *, hands_back: bool = False) -> AsyncGenerator[AgentOutput]:
        """A message, after the raw items that belong before it where they have to be read from elsewhere."""
        if self.rollout is None:
            yield attrs.evolve(message.output, hands_back=hands_back)
            return
        own = text(message.params.get("threadId")) == self.session_id
        if own and message.method in ("thread/tokenUsage/updated", "turn/completed"):
            for raw in await self.rollout.new_calls(turn_is_over=message.method == "turn/completed"):
                yield AgentOutput(raw=raw, position=self._place(message.start_offset))
        yield AgentOutput(raw=message.output.raw, position=self._place(message.end_offset), hands_back=hands_back)

    def _place(self, offset: int) -> str:
        rollout_offset = None if self.rollout is None else self.rollout.offset
        return str(Position(self.client.process.name, offset, rollout_offset))

    async def _start(self, prompt: str) -> str:
        """Start a turn; gives its id."""
        self._starting = anyio.Event()
        try:
            given = {"threadId": self.session_id, "input": [{"type": "text", "text": prompt}]}
            answer = await self.client.call("turn/start", given, timeout_s=CALL_TIMEOUT_S)
            started = text(mapping(answer.get("turn")).get("id"))
            if started and not self._is_over(started):
                self._turn_id = started
            return started
        finally:
            self._starting.set()
            self._starting = None

    def _is_over(self, turn_id: str) -> bool:
        """Whether a turn ended in what was read already: a short one may, before its start is answered."""
        return any(self._ends(message, turn_id) for message in self.client.messages)

    def _ends(self, message: Message, turn_id: str) -> bool:
        return (
            message.method == "turn/completed"
            and text(message.params.get("threadId")) == self.session_id
            and (not turn_id or _turn_id(message) == turn_id)
        )

    # -- interrupt --------------------------------------------------------------------------------

    async def interrupt(self) -> None:
        """End the turn in flight, and every process that it started."""
        self._interrupted = anyio.Event()
        try:
            if not self.client.ended:
                await self._interrupt_turn()
            left = await self.home.kill_commands()
            if left:
                self.report(f"{left} processes of the agent could not be killed")
        finally:
            self._interrupted.set()
            self._interrupted = None

    async def _interrupt_turn(self) -> None:
        starting = self._starting
        if starting is not None:
            with anyio.move_on_after(INTERRUPT_TIMEOUT_S):
                await starting.wait()
        was_in_turn = self._turn_id is not None
        try:
            if was_in_turn:
                given = {"threadId": self.session_id, "turnId": self._turn_id}
                await self._call_or_kill("turn/interrupt", given)
                await self._read_until(lambda: self._turn_id is None)
            if was_in_turn or self._running:
                await self._call_or_kill("thread/backgroundTerminals/clean", {"threadId": self.session_id})
                await self._read_until(lambda: not self._running, kill=False)
        except AgentError:
            return  # it died: whoever reads the turn learns of it
        finally:
            self._running.clear()

    async def _call_or_kill(self, method: str, given: dict[str, Any]) -> None:
        try:
            await self.client.call(method, given, timeout_s=INTERRUPT_TIMEOUT_S)
        except AgentError as error:
            if error.retryable:  # silent, or dead
                await self.client.process.kill()

    async def _read_until(self, done: Callable[[], bool], *, kill: bool = True) -> None:
        """Read on for a bounded time; a turn that does not end then is ended with its process."""
        with anyio.move_on_after(INTERRUPT_TIMEOUT_S if kill else 2.0):
            while not done():
                if not await self.client.read_one():
                    return
        if kill and not done():
            await self.client.process.kill()

    # -- state ------------------------------------------------------------------------------------

    async def save_state(self) -> bytes | None:
        """Codex's own record of the thread."""
        return await self.home.save_sessions(self.report)

    async def close(self) -> None:
        """End app-server and everything that it started."""
        try:
            await self.client.close()
            await self.client.process.kill()
            await self.home.kill_commands()
        except SandboxError:
            pass  # the sandbox is gone, and all of it with it


def _turn_id(message: Message) -> str:
    return text(mapping(message.params.get("turn")).get("id"))
