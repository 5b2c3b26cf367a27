"""Prompts and interrupts from stdin, and the one place where the player waits."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections import deque
from typing import Any


class TurnInterruptedError(Exception):
    """The turn in flight is to end at once."""


class Inbox:
    """What comes in: lines on stdin, and whatever the player's own threads post.

    An interrupt ends the turns of all prompts that came before it, and none that comes after.
    """

    def __init__(self) -> None:
        self._posts: queue.SimpleQueue[tuple[object, Any]] = queue.SimpleQueue()
        self._prompts: deque[tuple[int, str]] = deque()
        self._closed = False
        self._received = 0
        self._interrupted_up_to = -1
        self.current = 0
        """Number of the prompt that is being played; 0 for a turn that an earlier process began."""

    def listen(self) -> None:
        """Read stdin from now on, in a thread."""
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def interrupted(self) -> bool:
        """Whether the turn in flight is to end."""
        return self.current <= self._interrupted_up_to

    def post(self, source: object, value: Any) -> None:
        """Hand something to whoever waits for this source."""
        self._posts.put((source, value))

    def wait(self, source: object, timeout_s: float) -> Any:
        """What a source posts next; what others post meanwhile is dropped.

        Raises:
            TurnInterruptedError: The turn is to end.
            TimeoutError: Nothing came in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if self.interrupted:
                raise TurnInterruptedError
            try:
                found, value = self._posts.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise TimeoutError from None
            if found is source and not self.interrupted:
                return value

    def next_prompt(self) -> str | None:
        """The id of the next prompt's turn, when it comes; None at the end of the input."""
        while not self._prompts:
            if self._closed:
                return None
            self._posts.get()
        self.current, turn_id = self._prompts.popleft()
        return turn_id

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            try:
                message = json.loads(line)
                kind = message["type"]
                turn_id = str(message.get("turn_id", ""))
            except (ValueError, KeyError, TypeError, AttributeError):
                sys.stderr.write("a line of the input is no message\n")
                continue
            if kind == "prompt":
                self._received += 1
                self._prompts.append((self._received, turn_id))
            elif kind in ("interrupt", "exit"):
                self._interrupted_up_to = self._received
                self._closed = self._closed or kind == "exit"
            self.post(None, None)
        self._closed = True
        self.post(None, None)
