"""The columns of `trace.parquet`, in their order, and what stands in its key-value metadata.

Text that is the same in every row is a dictionary in Arrow: ten thousand times the same prompt costs one.
All other text is plain `string`; low-cardinality columns are dictionary-encoded by Parquet itself.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = "1.0"
"""Major and minor: a new minor version only adds columns; a reader refuses a newer major one."""

VERSION_KEY = b"envoi_trace.schema_version"
TRAJECTORY_KEY = b"envoi_trace.trajectory"
"""JSON of `Trajectory`."""
END_KEY = b"envoi_trace.end"
"""JSON of `TrajectoryEnded`, or `null`."""
SUMMARY_KEY = b"envoi_trace.summary"
"""JSON of `TraceSummary`."""

CONSTANT_COLUMNS = (
    "trajectory_id", "agent", "agent_version", "model", "sandbox", "task", "environment", "task_params", "started_at",
    "envoi_trace_version", "forked_from", "forked_at_part", "batch", "trial", "labels", "task_hash",
    "environment_hash", "session_end_reason", "session_end_total_parts", "session_end_total_turns",
    "session_end_final_commit",
)  # fmt: skip
"""The same in every row."""

REPEATING_COLUMNS = (
    "session_id", "role", "part_type", "item_type", "tool_name", "tool_status", "git_commit",
    "testing_state.latest_path", "evaluation.status", "repo_checkpoint.changed_files.list.element.status",
    "envoi_calls.list.element.path", "evaluation.suites.list.element.path",
)  # fmt: skip
"""Parquet paths of columns with few values, beside those that are the same in every row."""


@cache
def trace_schema() -> pa.Schema:
    """The Arrow schema, without metadata."""
    import pyarrow as pa

    string, int32, int64 = pa.string(), pa.int32(), pa.int64()
    constant = pa.dictionary(int32, string)
    moment = pa.timestamp("us", tz="UTC")
    counts = [("passed", int32), ("failed", int32), ("total", int32)]
    usage = pa.struct([(name, int64) for name in ("input", "cached_input", "output", "reasoning", "total")])
    changed_file = pa.struct([("path", string), ("status", string), ("additions", int32), ("deletions", int32)])
    checkpoint = pa.struct(
        [
            ("commit_before", string),
            ("commit_after", string),
            ("changed_files", pa.list_(changed_file)),
            ("skipped_files", pa.list_(string)),
        ]
    )
    call = pa.struct(
        [
            ("path", string),
            ("commit", string),
            ("timestamp", moment),
            ("duration_ms", int64),
            ("status_code", int32),
            ("error", string),
            *counts,
        ]
    )
    testing_state = pa.struct(
        [
            ("solved_paths", int32),
            ("total_paths", int32),
            ("latest_path", string),
            ("latest_passed", int32),
            ("latest_total", int32),
        ]
    )
    evaluation = pa.struct(
        [
            ("status", string),
            ("duration_ms", int64),
            *counts,
            ("suites", pa.list_(pa.struct([("path", string), *counts]))),
            ("error", string),
        ]
    )
    return pa.schema(
        [
            # trajectory
            ("trajectory_id", constant),
            ("agent", constant),
            ("agent_version", constant),
            ("model", constant),
            ("sandbox", constant),
            ("task", constant),
            ("environment", constant),
            ("task_params", constant),
            ("started_at", moment),
            ("envoi_trace_version", constant),
            ("forked_from", constant),
            ("forked_at_part", int32),
            ("batch", constant),
            ("trial", int32),
            ("labels", pa.map_(string, string)),
            ("task_hash", constant),
            ("environment_hash", constant),
            # identity
            ("part", int32),
            ("turn", int32),
            ("turn_prompt", string),
            ("session_id", string),
            ("timestamp", moment),
            ("duration_ms", int64),
            ("event_index", int64),
            # semantics
            ("role", string),
            ("part_type", string),
            ("item_type", string),
            ("summary", string),
            ("content", string),
            ("tool_name", string),
            ("tool_status", string),
            ("tool_input", string),
            ("tool_output", string),
            ("tool_error", string),
            ("tool_exit_code", int32),
            ("token_usage", usage),
            ("cost_usd", pa.float64()),
            # repository
            ("git_commit", string),
            ("repo_checkpoint", checkpoint),
            ("patch", string),
            # tests
            ("envoi_calls", pa.list_(call)),
            ("testing_state", testing_state),
            ("evaluation", evaluation),
            # session end
            ("session_end_reason", constant),
            ("session_end_total_parts", int32),
            ("session_end_total_turns", int32),
            ("session_end_final_commit", constant),
        ]
    )
