"""Raw items of a thread that was resumed.

Codex sends raw items (`rawResponseItem/completed`) only of threads that `thread/start` began, not after a
`thread/resume` (seen with 0.163). The thread's rollout file holds the same items: so its new lines are read
whenever a model response is over, and the calls in them are given as events of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import attrs

from envoi_trace_codex.home import CodexHome
from envoi_trace_codex.parsing.raw_items import CALL_TYPES, OUTPUT_TYPES
from envoi_trace_codex.parsing.values import MALFORMED, load, mapping, text

MAX_READ_BYTES = 64 * 1024 * 1024
COMMAND_TIMEOUT_S = 60.0
FLUSH_TIMEOUT_S = 2.0
"""How long Codex may take to write down the end of a turn that it has told already."""

_FIND = 'file=$(find "$1/sessions" -name "rollout-*$2.jsonl" | head -n 1); [ -n "$file" ] || exit 0; '
_READ = _FIND + 'tail -c "+$3" "$file" | head -c "$4"'
_SIZE = _FIND + 'wc -c <"$file"'


@attrs.define
class RolloutTail:
    """What a thread's rollout file gains from an offset on."""

    home: CodexHome
    thread_id: str
    offset: int = 0

    async def skip_to_end(self) -> None:
        """Leave out what is there already."""
        size = (await self._run(_SIZE)).strip()
        self.offset = int(size) if size.isdigit() else 0

    async def new_calls(self, *, turn_is_over: bool) -> list[str]:
        """The lines that were added and that are a tool call, or the output of one.

        Args:
            turn_is_over: Whether to wait, for a bounded time, until the end of the turn is among them.
        """
        calls: list[str] = []
        with anyio.move_on_after(FLUSH_TIMEOUT_S if turn_is_over else COMMAND_TIMEOUT_S):
            while True:
                lines = await self._new_lines()
                calls += [line for line in lines if _is_call(line)]
                if not turn_is_over or any(_is_end(line) for line in lines):
                    break
                await anyio.sleep(0.02)
        return calls

    async def _new_lines(self) -> list[str]:
        data = await self._run(_READ, str(self.offset + 1), str(MAX_READ_BYTES))
        whole, newline, _begun = data.rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        return whole.decode("utf-8", "replace").splitlines() if newline else []

    async def _run(self, script: str, *arguments: str) -> bytes:
        done = await self.home.sandbox.run(
            ("sh", "-c", script, "sh", self.home.path, self.thread_id, *arguments),
            timeout_s=COMMAND_TIMEOUT_S,
            max_output_bytes=MAX_READ_BYTES,
        )
        return done.stdout


def _kinds(line: str) -> Iterator[str]:
    try:
        content = mapping(load(line))
    except MALFORMED:
        return
    yield text(content.get("type"))
    yield text(mapping(content.get("payload")).get("type"))


def _is_call(line: str) -> bool:
    outer, *inner = [*_kinds(line), ""]
    return outer == "response_item" and inner[0] in CALL_TYPES | OUTPUT_TYPES


def _is_end(line: str) -> bool:
    outer, *inner = [*_kinds(line), ""]
    return outer == "event_msg" and inner[0] in ("task_complete", "turn_complete", "turn_aborted")
