"""The journal: every fact of a trajectory, durable before the next thing happens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.domain.facts import Fact
from envoi_trace_core.trace.convert_facts import fact_from_json, fact_to_json
from envoi_trace_core.trace.line_log import Damage, LineLog, guard, read_lines, storage_error


def read_journal(path: Path) -> tuple[Sequence[Fact], Sequence[Damage]]:
    """All facts that are whole, and what is not. An absent journal gives nothing.

    A last line that a crash tore is damage too, though it was never acknowledged to anyone.

    Raises:
        StorageError: It can't be read at all.
    """
    facts: list[Fact] = []
    damage: list[Damage] = []
    try:
        for number, line in read_lines(path):
            if line is None:
                damage.append(Damage(line_number=number, reason="torn, or changed after it was written"))
                continue
            try:
                facts.append(fact_from_json(line))
            except (TypeError, ValueError, KeyError) as error:
                damage.append(Damage(line_number=number, reason=f"no fact that this version knows: {error!s:.200}"))
    except OSError as error:
        raise storage_error(f"{path} can't be read", error) from error
    return facts, damage


@attrs.define
class Journal:
    """The writing end of a journal; `with` or `async with` closes it."""

    _log: LineLog

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Make a journal, or take over the one that is there, less a torn last line.

        An earlier writer of the same file is fenced off: its next `append` raises.

        Raises:
            StorageError: It can't be made or read.
        """
        return cls(LineLog.open(path))

    @property
    def path(self) -> Path:
        """Where it stands."""
        return self._log.path

    @property
    def durable_bytes(self) -> int:
        """How much of it is on disk."""
        return self._log.durable_bytes

    @property
    def is_taken_over(self) -> bool:
        """Whether another writer on this machine has opened it since."""
        return self._log.is_taken_over

    async def append(self, fact: Fact) -> None:
        """Write a fact, and return once it is durable. Not to be called twice at once.

        Raises:
            StorageError: It could not be written (the journal is as before), or another writer took over.
        """
        with anyio.CancelScope(shield=True):  # a fact that is written must also be known to be
            await anyio.to_thread.run_sync(self.append_now, fact)

    def append_now(self, fact: Fact) -> None:
        """The same, in this thread."""
        self._log.append([guard(fact_to_json(fact))])

    def close(self) -> None:
        """Let go of the file."""
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
