"""The views of a query: `parts` over the rows of the traces, `trajectories` over their footers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envoi_trace_core.trace.schema import END_KEY, SUMMARY_KEY, TRAJECTORY_KEY, trace_schema

if TYPE_CHECKING:
    import duckdb

_TRAJECTORY = {
    "trajectory_id": "VARCHAR", "agent": "VARCHAR", "agent_version": "VARCHAR", "model": "VARCHAR",
    "sandbox": "VARCHAR", "task": "VARCHAR", "environment": "VARCHAR", "task_params": "VARCHAR",
    "started_at": "TIMESTAMPTZ", "envoi_trace_version": "VARCHAR", "forked_from": "VARCHAR",
    "forked_at_part": "INTEGER", "batch": "VARCHAR", "trial": "INTEGER", "labels": "MAP(VARCHAR, VARCHAR)",
    "task_hash": "VARCHAR", "environment_hash": "VARCHAR",
}  # fmt: skip
_END = {
    "reason": "VARCHAR", "message": "VARCHAR", "total_parts": "INTEGER", "total_turns": "INTEGER",
    "final_commit": "VARCHAR", "at": "TIMESTAMPTZ",
}  # fmt: skip
_USAGE = {"input": "BIGINT", "cached_input": "BIGINT", "output": "BIGINT", "reasoning": "BIGINT", "total": "BIGINT"}
_SUMMARY: dict[str, Any] = {
    "parts": "INTEGER", "turns": "INTEGER", "session_ids": ["VARCHAR"], "token_usage": _USAGE, "cost_usd": "DOUBLE",
    "test_paths": ["VARCHAR"], "solved_paths": "INTEGER", "best_share": "DOUBLE", "solved_commit": "VARCHAR",
    "unparsed_events": "INTEGER", "last_at": "TIMESTAMPTZ",
}  # fmt: skip

_TRAJECTORIES = """
WITH footers AS (
    SELECT file_name,
        max(value) FILTER (key = '{trajectory_key}') AS trajectory,
        max(value) FILTER (key = '{end_key}') AS ending,
        max(value) FILTER (key = '{summary_key}') AS summary
    FROM (SELECT file_name, key, decode(value) AS value FROM parquet_kv_metadata({files})
          WHERE key IN ('{trajectory_key}', '{end_key}', '{summary_key}'))
    GROUP BY file_name
), parsed AS (
    SELECT from_json(trajectory, '{trajectory}') AS t, from_json(ending, '{end}') AS e,
        from_json(summary, '{summary}') AS s
    FROM footers
)
SELECT {trajectory_columns},
    e.reason AS session_end_reason, e.message AS session_end_message, e.at AS session_end_at,
    e.total_parts AS session_end_total_parts, e.total_turns AS session_end_total_turns,
    e.final_commit AS session_end_final_commit,
    s.parts AS total_parts, s.turns AS total_turns, len(s.session_ids)::INTEGER AS total_sessions,
    s.token_usage AS token_usage, s.cost_usd AS cost_usd,
    s.solved_commit IS NOT NULL AS solved, s.solved_commit AS solved_commit,
    s.solved_paths AS solved_paths, len(s.test_paths)::INTEGER AS total_paths, s.best_share AS best_share,
    s.unparsed_events AS unparsed_events, coalesce(e.at, s.last_at) AS last_at
FROM parsed
ORDER BY started_at, trajectory_id
"""


def parts_view(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], *, by_name: bool) -> None:
    """`parts`: one row a part, with the columns of `trace.parquet`."""
    if files:
        connection.execute(
            f"CREATE VIEW parts AS FROM read_parquet({_list(files)}, union_by_name = {str(by_name).lower()})"
        )
    else:
        connection.register("no_parts", trace_schema().empty_table())
        connection.execute("CREATE TABLE parts AS FROM no_parts")
        connection.unregister("no_parts")


def trajectories_view(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
    """`trajectories`: one row each."""
    select = _TRAJECTORIES.format(
        trajectory_key=TRAJECTORY_KEY.decode(),
        end_key=END_KEY.decode(),
        summary_key=SUMMARY_KEY.decode(),
        files=_list(files) if files else "[]::VARCHAR[]",
        trajectory=json.dumps(_TRAJECTORY),
        end=json.dumps(_END),
        summary=json.dumps(_SUMMARY),
        trajectory_columns=", ".join(f"t.{name} AS {name}" for name in _TRAJECTORY),
    )
    if files:
        connection.execute(f"CREATE VIEW trajectories AS {select}")
        return
    nothing = "(SELECT NULL::VARCHAR AS file_name, NULL::VARCHAR AS key, NULL::BLOB AS value WHERE false)"
    connection.execute(f"CREATE TABLE trajectories AS {select.replace('parquet_kv_metadata([]::VARCHAR[])', nothing)}")


def _list(files: Sequence[Path]) -> str:
    return "[" + ", ".join("'" + str(file).replace("'", "''") + "'" for file in files) + "]"
