"""`envoi-trace list`: the trajectories of a storage."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from envoi_trace_core.cli.output import Cell, Style, age, out_json, out_table, warn
from envoi_trace_core.cli.reading import AsJson, StorageName, StorageOpts, StorageWords, run_async
from envoi_trace_core.domain.parts import SessionEndReason
from envoi_trace_core.errors import UsageError
from envoi_trace_core.suggest import did_you_mean

if TYPE_CHECKING:
    from envoi_trace_core.trace.reader import TraceHeader

IN_PROGRESS = "in progress"
SHORTEST_PREFIX = 13  # of a UUIDv7: its milliseconds
_SPAN = re.compile(r"(\d+)([smhdw])")
_SPAN_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@attrs.frozen(kw_only=True)
class Filters:
    """What a trajectory must be to be listed; None lets all through."""

    agent: str | None = None
    model: str | None = None
    task: str | None = None
    environment: str | None = None
    batch: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    reason: str | None = None
    since: datetime | None = None

    def admit(self, header: TraceHeader) -> bool:
        """Whether a trajectory is one of those."""
        trajectory = header.trajectory
        return (
            self.agent in (None, trajectory.agent)
            and self.model in (None, trajectory.model)
            and self.task in (None, trajectory.task)
            and self.batch in (None, trajectory.batch)
            and all(trajectory.labels.get(key) == value for key, value in self.labels)
            and self.environment in (None, trajectory.environment)
            and self.reason in (None, reason_of(header))
            and (self.since is None or trajectory.started_at >= self.since)
        )


def list_trajectories(
    agent: Annotated[str | None, typer.Option(help="Only this agent's.", metavar="NAME")] = None,
    model: Annotated[str | None, typer.Option(help="Only with this model.", metavar="NAME")] = None,
    task: Annotated[str | None, typer.Option(help="Only on this task.", metavar="NAME")] = None,
    environment: Annotated[str | None, typer.Option(help="Only in this environment.", metavar="NAME")] = None,
    batch: Annotated[str | None, typer.Option(help="Only of this batch.", metavar="NAME")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only with this label. Repeatable: all of them.", metavar="KEY=VALUE")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Only those that ended so; `in progress` for no end.", metavar="REASON")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only started since: 90m, 12h, 7d, or 2026-01-31.", metavar="WHEN")
    ] = None,
    storage: StorageName = None,
    storage_opt: StorageOpts = None,
    json: AsJson = False,
) -> None:
    """List the trajectories of a storage, newest first."""
    filters = Filters(
        agent=agent,
        model=model,
        task=task,
        environment=environment,
        batch=batch,
        labels=tuple(_label(word) for word in label or ()),
        reason=_reason(reason),
        since=None if since is None else parse_since(since, datetime.now(UTC)),
    )
    words = StorageWords.of(storage, storage_opt)
    headers = [header for header in run_async(lambda: _headers(words)) if filters.admit(header)]
    headers.sort(key=lambda header: header.trajectory.started_at, reverse=True)
    if json:
        out_json([_as_json(header) for header in headers])
    elif headers:
        _table(headers)
    else:
        sys.stderr.write("no trajectories\n")


async def _headers(words: StorageWords) -> Sequence[TraceHeader]:
    """Of all that can be read; one that can't is warned about and left out."""
    from envoi_trace_core.trace.lookup import list_traces

    async with words.open() as storage:
        listed = await list_traces(storage)
    headers = []
    for trace in listed:
        if trace.header is not None:
            headers.append(trace.header)
        elif trace.error is not None:
            warn(f"{trace.trajectory_id} is left out: {trace.error.message}")
    return headers


def reason_of(header: TraceHeader) -> str:
    """Why it ended, or that it did not."""
    return header.end.reason if header.end is not None else IN_PROGRESS


def reason_style(reason: str) -> Style | None:
    """Green for solved, red for a failure."""
    if reason == "solved":
        return "green"
    if reason.endswith("_error"):
        return "red"
    return "yellow" if reason in (IN_PROGRESS, "interrupted") else None


def _label(word: str) -> tuple[str, str]:
    key, separator, value = word.partition("=")
    if not key or not separator:
        raise UsageError(f"--label {word!r:.80} is no KEY=VALUE", mend="--label team=search")
    return key, value


def _reason(word: str | None) -> str | None:
    if word is None:
        return None
    known = (*SessionEndReason.__args__, IN_PROGRESS)  # type: ignore[attr-defined]
    normal = word.replace("-", "_").replace("in_progress", IN_PROGRESS)
    if normal not in known:
        raise UsageError(f"unknown reason {word!r}.{did_you_mean(normal, known)}", mend=f"one of {', '.join(known)}")
    return normal


def parse_since(word: str, now: datetime) -> datetime:
    """A moment, from a span back (`90m`) or a date and perhaps time (local unless it names a zone).

    Raises:
        UsageError: It is neither.
    """
    span = _SPAN.fullmatch(word.strip().lower())
    try:
        if span:
            return now - timedelta(**{_SPAN_UNITS[span[2]]: int(span[1])})
        return datetime.fromisoformat(word).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"--since {word!r} is no time", mend="--since 12h, --since 7d or --since 2026-01-31") from None


def _table(headers: Sequence[TraceHeader]) -> None:
    ids = [header.trajectory.trajectory_id for header in headers]
    shown = _shortened(ids) if sys.stdout.isatty() else ids
    rows: list[list[str | Cell]] = []
    for header, trajectory_id in zip(headers, shown, strict=True):
        trajectory, reason = header.trajectory, reason_of(header)
        solved = f"{header.summary.solved_paths}/{header.summary.total_paths}"
        rows.append(
            [
                trajectory_id, trajectory.agent, trajectory.model or "-", trajectory.environment,
                str(header.summary.parts), solved, Cell(reason, reason_style(reason)), age(trajectory.started_at),
            ]
        )  # fmt: skip
    out_table(["id", "agent", "model", "environment", "parts", "solved", "reason", "age"], rows, right=(4, 5))


def _shortened(ids: Sequence[str]) -> list[str]:
    """Prefixes of one length, as short as tells these apart."""
    if max(map(len, ids)) <= SHORTEST_PREFIX:
        return list(ids)
    length = next(
        length
        for length in range(SHORTEST_PREFIX, max(map(len, ids)) + 1)
        if len({word[:length] for word in ids}) == len(set(ids))
    )
    return [word[:length] for word in ids]


def _as_json(header: TraceHeader) -> dict[str, Any]:
    trajectory, summary = header.trajectory, header.summary
    return {
        "trajectory_id": trajectory.trajectory_id,
        "agent": trajectory.agent,
        "model": trajectory.model,
        "task": trajectory.task,
        "environment": trajectory.environment,
        "sandbox": trajectory.sandbox,
        "started_at": trajectory.started_at,
        "parts": summary.parts,
        "turns": summary.turns,
        "solved_paths": summary.solved_paths,
        "total_paths": summary.total_paths,
        "reason": header.end.reason if header.end is not None else None,
        "token_usage": attrs.asdict(summary.token_usage),
        "cost_usd": summary.cost_usd,
        "unparsed_events": summary.unparsed_events,
        "best_share": summary.best_share,
        "batch": trajectory.batch,
        "trial": trajectory.trial,
        "labels": dict(trajectory.labels),
    }
