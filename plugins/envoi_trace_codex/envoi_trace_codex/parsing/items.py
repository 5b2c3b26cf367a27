"""One finished item of a Codex thread as the draft of a part.

Codex writes the same items in three dialects (`aggregatedOutput` in app-server, `aggregated_output` in
`exec --json`, `AggregatedOutput`-like names in rollouts); `normalised` makes them one.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from envoi_trace_codex.parsing.values import (
    INT32_MAX,
    camel,
    content_text,
    dump,
    duration,
    integer,
    mapping,
    sequence,
    text,
)
from envoi_trace_core.domain.drafts import PartDraft

Item = Mapping[str, Any]

SILENT_TYPES = frozenset(
    {
        "userMessage",
        "hookPrompt",
        "subAgentActivity",
        "enteredReviewMode",
        "exitedReviewMode",
        "contextCompaction",
        "error",
    }
)
"""Items that are no action of the agent: our own prompt, and what Codex says about itself."""

HOOKED_TYPES = frozenset({"commandExecution", "fileChange", "mcpToolCall", "dynamicToolCall"})
"""Items of tools after which Codex runs the PostToolUse hook (seen with 0.163 and 0.169)."""

STREAMED_TYPES = frozenset({"agentMessage", "reasoning", "plan"})
"""Items that arrive in pieces: cut in the middle, what came is still a part."""


def normalised(item: Item) -> Item:
    """An item of any dialect, with app-server's names."""
    named = {camel(name): value for name, value in item.items()}
    named["type"] = camel(text(item.get("type")))
    kind = named["type"]
    if kind == "agentMessage" and "text" not in named:
        named["text"] = content_text(named.get("content"))
    if kind == "reasoning":
        named["summary"] = named.get("summary") or named.get("summaryText") or _listed(named.get("text"))
        named["content"] = named.get("content") or named.get("rawContent") or []
    if kind == "commandExecution" and isinstance(named.get("command"), list):
        named["command"] = shlex.join(text(word) for word in sequence(named["command"]))
    if kind == "fileChange" and isinstance(named.get("changes"), dict):
        named["changes"] = [_change(path, mapping(change)) for path, change in named["changes"].items()]
    return named


def _change(path: str, change: Item) -> Item:
    """One file of a rollout's patch: `{"type": "update", "unified_diff": ..., "move_path": ...}`."""
    kind = {"type": change.get("type"), "move_path": change.get("move_path")}
    return {"path": path, "kind": kind, "diff": change.get("unified_diff", change.get("content"))}


def _listed(value: Any) -> list[str]:
    return [text(value)] if isinstance(value, str) else []


def part_of_item(item: Item) -> PartDraft | None:
    """The part that a finished item is; None when its type is unknown or it holds nothing.

    Args:
        item: Normalised.
    """
    make = _MAKERS.get(item["type"])
    return make(item) if make is not None else None


def is_known(item: Item) -> bool:
    """Whether an item's type is one that this parser knows."""
    return item["type"] in _MAKERS or item["type"] in SILENT_TYPES


def status_of(item: Item) -> str:
    """`completed`, `failed` or `interrupted`, whatever Codex called it."""
    status = camel(text(item.get("status")))
    if status in ("completed", "interrupted"):
        return status
    return "interrupted" if status == "inProgress" else "failed"


def _reasoning(item: Item) -> PartDraft | None:
    pieces = [content_text(item.get("summary")) or _joined(item.get("summary"))]
    pieces.append(content_text(item.get("content")) or _joined(item.get("content")))
    content = "\n\n".join(piece for piece in pieces if piece)
    return PartDraft(part_type="reasoning", item_type="reasoning", content=content) if content else None


def _joined(value: Any) -> str:
    return "\n\n".join(text(piece) for piece in sequence(value) if isinstance(piece, str))


def _message(item: Item) -> PartDraft | None:
    content = text(item.get("text"))
    return PartDraft(part_type="text", item_type=item["type"], content=content) if content else None


def _command(item: Item) -> PartDraft:
    command = text(item.get("command"))
    actions = [text(mapping(action).get("command")) for action in sequence(item.get("commandActions"))]
    return PartDraft(
        part_type="tool",
        item_type="commandExecution",
        summary=_first_line(" && ".join(filter(None, actions)) or command),
        tool_name="shell",
        tool_status=status_of(item),
        tool_input=dump({"command": command, "cwd": text(item.get("cwd")).removeprefix("file://")}),
        tool_output=text(item.get("aggregatedOutput")),
        tool_exit_code=integer(item.get("exitCode"), limit=INT32_MAX),
        duration_ms=duration(item.get("durationMs")),
        call_id=text(item.get("id")) or None,
        may_change_files=True,
    )


def _first_line(words: str) -> str:
    line = next((line.strip() for line in words.splitlines() if line.strip()), "")
    return line if len(line) <= 160 else line[:159] + "…"


def _patch(item: Item) -> PartDraft:
    changes = [mapping(change) for change in sequence(item.get("changes"))]
    files = [_file(change) for change in changes]
    lines = [" ".join(filter(None, (file["kind"], file["path"], _arrow(file)))) for file in files]
    diffs = [f"{line}\n{text(change.get('diff'))}".rstrip("\n") for line, change in zip(lines, changes, strict=True)]
    return PartDraft(
        part_type="patch",
        item_type="fileChange",
        summary=_first_line(", ".join(lines)),
        content="\n\n".join(diffs) or None,
        tool_name="apply_patch",
        tool_status=status_of(item),
        tool_input=dump({"changes": files}),
        call_id=text(item.get("id")) or None,
        may_change_files=True,
    )


def _file(change: Item) -> dict[str, str]:
    """A file of a patch: its path, `add`, `update` or `delete`, and where it was moved to."""
    kind = change.get("kind")
    file = {"path": text(change.get("path")), "kind": text(kind) or text(mapping(kind).get("type"))}
    moved_to = text(mapping(kind).get("move_path"))
    return {**file, "moved_to": moved_to} if moved_to else file


def _arrow(file: Mapping[str, str]) -> str:
    return f"-> {file['moved_to']}" if "moved_to" in file else ""


def _mcp_call(item: Item) -> PartDraft:
    result, error = mapping(item.get("result")), item.get("error")
    structured = result.get("structuredContent", result.get("structured_content"))
    said = content_text(result.get("content"))
    tool = text(item.get("tool"))
    failed = result.get("isError", result.get("is_error")) is True
    return PartDraft(
        part_type="tool",
        item_type="mcpToolCall",
        tool_name=tool if tool == "run_tests" else f"{text(item.get('server'))}.{tool}",
        tool_status="failed" if failed else status_of(item),
        tool_input=dump(item.get("arguments")),
        tool_output=said or (dump(structured) if structured is not None else None),
        tool_error=text(mapping(error).get("message")) or text(error) or None,
        duration_ms=duration(item.get("durationMs")),
        call_id=text(item.get("id")) or None,
        may_change_files=True,
    )


def _dynamic_call(item: Item) -> PartDraft:
    namespace, tool = text(item.get("namespace")), text(item.get("tool")) or text(item.get("name"))
    return PartDraft(
        part_type="tool",
        item_type=item["type"],
        tool_name=f"{namespace}.{tool}" if namespace and tool != "run_tests" else tool,
        tool_status="failed" if item.get("success") is False else status_of(item),
        tool_input=dump(item.get("arguments")),
        tool_output=content_text(item.get("contentItems", item.get("output"))),
        duration_ms=duration(item.get("durationMs")),
        call_id=text(item.get("id")) or None,
        may_change_files=True,
    )


def _agent_call(item: Item) -> PartDraft:
    names = ("prompt", "receiverThreadIds", "model", "reasoningEffort")
    return PartDraft(
        part_type="tool",
        item_type="collabAgentToolCall",
        tool_name=text(item.get("tool")),
        tool_status=status_of(item),
        tool_input=dump({name: item.get(name) for name in names}),
        tool_output=dump(item.get("agentsStates")),
        call_id=text(item.get("id")) or None,
    )


def _named(name: str, *fields: str, output: str = "", writes: bool = False) -> Callable[[Item], PartDraft]:
    """Items of a built-in tool, of which the named fields are its input."""

    def make(item: Item) -> PartDraft:
        result = item.get(output)
        return PartDraft(
            part_type="tool",
            item_type=item["type"],
            tool_name=name,
            tool_status=status_of(item) if item.get("status") else "completed",
            tool_input=dump({field: item.get(field) for field in fields if item.get(field) is not None}),
            tool_output=None if result is None else text(result) or dump(result),
            duration_ms=duration(item.get("durationMs")),
            call_id=text(item.get("id")) or None,
            may_change_files=writes,
        )

    return make


_MAKERS: Mapping[str, Callable[[Item], PartDraft | None]] = {
    "reasoning": _reasoning,
    "agentMessage": _message,
    "plan": _message,
    "commandExecution": _command,
    "fileChange": _patch,
    "mcpToolCall": _mcp_call,
    "dynamicToolCall": _dynamic_call,
    "functionCallOutput": _dynamic_call,
    "collabAgentToolCall": _agent_call,
    "webSearch": _named("web_search", "query", "action", output="results"),
    "imageView": _named("view_image", "path"),
    "sleep": _named("sleep", "durationMs"),
    "imageGeneration": _named("image_generation", "revisedPrompt", "savedPath", writes=True),
    "todoList": _named("update_plan", "items"),
}
