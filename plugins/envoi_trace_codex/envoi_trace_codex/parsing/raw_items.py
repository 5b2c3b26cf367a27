"""Tool calls as the model made them, for those of which Codex tells nothing else.

A patch that can't be applied, a tool that does not exist, a search for tools, a script of a code-mode model:
they appear only as raw items, a call and its output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from envoi_trace_codex.parsing.values import INT32_MAX, clean, content_text, dump, integer, load, text
from envoi_trace_core.domain.drafts import PartDraft

RawItem = Mapping[str, Any]

CALL_TYPES = frozenset({"function_call", "custom_tool_call", "local_shell_call", "tool_search_call"})
OUTPUT_TYPES = frozenset({"function_call_output", "custom_tool_call_output", "tool_search_output"})

_WRITING_TOOLS = frozenset({"shell", "shell_command", "local_shell", "exec_command", "apply_patch"})
"""Tools after which the workspace is looked at, though no item told of them: they were cut off.

Not `write_stdin`: it has no hook of its own, so a look at the workspace might find the next action there already. What
its command changes is recorded when that ends, for which Codex runs the hook.
"""
_EXIT_CODE = re.compile(r"^(?:Process exited with code|Exit code:) (-?\d{1,10})$", re.MULTILINE)
_REFUSED = ("unsupported call", "unsupported custom tool call", "failed to parse", "apply_patch verification failed")
_FAILED = (*_REFUSED, "Script failed", "unable to ", "failed ", "execution error", "error: ", "aborted")


def call_id_of(item: RawItem) -> str:
    """The id that ties a call to its output, and to the item that tells the same."""
    return text(item.get("call_id")) or text(item.get("id"))


def part_of_call(call: RawItem, output: RawItem | None) -> PartDraft:
    """The part that a raw call and its output are; without an output it was interrupted."""
    name = text(call.get("name")) or text(call.get("type")).removesuffix("_call")
    result = output or {}
    said = content_text(result.get("output")) or (dump(result["tools"]) if "tools" in result else "")
    status = "interrupted" if output is None else _status(said)
    arguments = _input(call)
    exit_code = _EXIT_CODE.search(said)
    is_patch = name == "apply_patch"
    refused = status == "failed" and exit_code is None
    return PartDraft(
        part_type="patch" if is_patch else "tool",
        item_type=text(call.get("type")),
        content=(text(call.get("input")) or arguments) if is_patch else None,
        tool_name="shell" if name in ("exec_command", "shell", "shell_command", "local_shell") else name,
        tool_status=status,
        tool_input=arguments,
        tool_output=said if output is not None and not refused else None,
        tool_error=said if refused else None,
        tool_exit_code=integer(int(exit_code[1]), limit=INT32_MAX) if exit_code else None,
        call_id=call_id_of(call) or None,
        may_change_files=name in _WRITING_TOOLS and not said.startswith(_REFUSED),
    )


def _status(said: str) -> str:
    code = _EXIT_CODE.search(said)
    if code is not None:
        return "completed" if int(code[1]) == 0 else "failed"
    if said.rstrip().endswith("aborted by user"):
        return "interrupted"
    return "failed" if said.startswith(_FAILED) else "completed"


def _input(call: RawItem) -> str:
    """The call's arguments as JSON text: as the model wrote them when that is JSON."""
    arguments = call.get("arguments", call.get("action", call.get("input")))
    if isinstance(arguments, str) and "arguments" in call:
        try:
            load(arguments)
        except (ValueError, RecursionError):
            return dump(arguments)
        return clean(arguments)
    return dump({"input": arguments}) if isinstance(arguments, str) else dump(arguments)
