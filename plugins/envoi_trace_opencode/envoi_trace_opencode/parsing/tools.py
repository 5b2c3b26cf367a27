"""A tool part of OpenCode: its beginning and its end as parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from envoi_trace_core.domain.drafts import PartDraft
from envoi_trace_opencode.parsing.kinds import FILE_TOOLS, READING_TOOLS
from envoi_trace_opencode.parsing.values import (
    INT32_MAX,
    INT64_MAX,
    as_json,
    first_line,
    integer,
    mapping,
    moment,
    text,
)

RUN_TESTS = "run_tests"
OUTCOME_CHARS = 80
ABORTED = "User aborted the command"


def tool_use(part: Mapping[str, Any], session_id: str | None) -> PartDraft:
    """A tool that starts to run."""
    state = mapping(part.get("state"))
    return attrs.evolve(
        _draft(part, session_id),
        part_type="tool_use",
        summary=_about(part),
        tool_status="running",
        timestamp=moment(mapping(state.get("time")).get("start")),
    )


def tool_result(part: Mapping[str, Any], session_id: str | None) -> PartDraft:
    """A tool that ended, or that was running when its server died.

    A tool that wrote files is a `patch`, with the tool's own diff as its content; git's stands in the checkpoint.
    """
    state, times = mapping(part.get("state")), mapping(mapping(part.get("state")).get("time"))
    metadata = mapping(state.get("metadata"))
    tool = text(part.get("tool"))
    status, error = _outcome(part)
    exit_code = integer(metadata.get("exit"), INT32_MAX)
    output = state.get("output") if isinstance(state.get("output"), str) else metadata.get("output")
    start, end = integer(times.get("start")), integer(times.get("end"))
    draft = attrs.evolve(
        _draft(part, session_id),
        tool_status=status,
        tool_output=output if isinstance(output, str) else None,
        tool_error=error,
        tool_exit_code=exit_code,
        duration_ms=min(end - start, INT64_MAX)
        if start is not None and end is not None and 0 <= start <= end
        else None,
        timestamp=moment(times.get("end")),
        may_change_files=tool not in READING_TOOLS and _name(tool) != RUN_TESTS,
    )
    outcome = "" if status == "completed" else f" ({status}: {first_line(error)})" if error else f" ({status})"
    if not outcome and exit_code:
        outcome = f" (exit {exit_code})"
    outcome = first_line(outcome, OUTCOME_CHARS)
    draft = attrs.evolve(draft, summary=f"{_about(part)} {outcome}".rstrip())
    if tool in FILE_TOOLS and status == "completed":
        diff = metadata.get("diff")
        content = diff if isinstance(diff, str) and diff else text(mapping(state.get("input")).get("content")) or None
        return attrs.evolve(draft, part_type="patch", content=content)
    return draft


def _draft(part: Mapping[str, Any], session_id: str | None) -> PartDraft:
    state = mapping(part.get("state"))
    tool = text(part.get("tool"))
    given = state.get("input")
    name = _name(tool)
    if tool == "invalid":  # what the model asked for was no call: the tool that it meant stands in the input
        name = _name(text(mapping(given).get("tool"))) or tool
    return PartDraft(
        part_type="tool_result",
        item_type=tool,
        tool_name=name,
        tool_input=as_json(given) if isinstance(given, dict) and given else None,
        session_id=session_id,
        call_id=text(part.get("callID")) or None,
    )


def _name(tool: str) -> str:
    """MCP tools are named after their server and themselves."""
    return RUN_TESTS if tool.endswith(f"_{RUN_TESTS}") else tool


def _outcome(part: Mapping[str, Any]) -> tuple[str, str | None]:
    state = mapping(part.get("state"))
    error = text(state.get("error")) or None
    match state.get("status"):
        case "completed":
            if text(part.get("tool")) == "invalid":
                return "failed", text(mapping(state.get("input")).get("error")) or text(state.get("output")) or None
            if text(part.get("tool")) == "bash" and mapping(state.get("metadata")).get("exit", 0) is None:
                # A command that was killed is `completed` for OpenCode; why stands at the end of its output.
                return ("interrupted" if ABORTED in text(state.get("output"))[-200:] else "failed"), None
            return "completed", None
        case "error":
            aborted = mapping(state.get("metadata")).get("interrupted") is True or error == "Tool execution aborted"
            return ("interrupted" if aborted else "failed"), error
    return "interrupted", None


def _about(part: Mapping[str, Any]) -> str:
    """One line: what the tool does."""
    tool = text(part.get("tool"))
    given = mapping(mapping(part.get("state")).get("input"))
    name = _name(tool)
    if name == RUN_TESTS:
        return first_line(f"run_tests {text(given.get('path')) or '(all)'}")
    if tool == "bash":
        return first_line(f"$ {text(given.get('command'))}")
    if tool in ("apply_patch", "patch"):
        lines = text(given.get("patchText")).splitlines()
        files = [line.split(" File: ", 1)[1] for line in lines if line.startswith("*** ") and " File: " in line]
        return first_line(f"{tool} {', '.join(files)}")
    for key in ("filePath", "path", "pattern", "url", "query", "description", "tool", "name"):
        if text(given.get(key)):
            return first_line(f"{name} {text(given.get(key))}")
    return first_line(name)
