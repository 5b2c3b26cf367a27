"""The orchestrator's MCP server, on one connection of a bridge."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from envoi_trace_core.background import background_tasks

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

    from envoi_trace_core.harness.relay import RelayStream

TOOL_NAME = "run_tests"
MAX_LINE_BYTES = 1024 * 1024
MAX_HELLO_BYTES = 1000

DESCRIPTION = (
    "Runs the task's tests on the workspace as it is now, and tells how many passed and why others failed. "
    "They run elsewhere, on a fresh build of your files; it may take minutes. Nothing in your workspace changes."
)
SCHEMA = {
    "type": "object",
    "properties": {
        "path": {
            "type": "string",
            "description": "A suite or a single test, such as suite/test; empty or left out: all",
        }
    },
    "additionalProperties": False,
}

Answer = Callable[[str, str | int, str], Awaitable[tuple[str, bool]]]
"""Caller, request id and path to the answer's text and whether it is an error."""


async def serve_mcp(stream: RelayStream, answer: Answer) -> None:
    """Serve one connection to its end."""
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    lines = BufferedByteReceiveStream(stream)
    caller = _nonce(await lines.receive_until(b"\n", MAX_HELLO_BYTES))
    to_server, server_reads = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    server_writes, from_server = anyio.create_memory_object_stream[SessionMessage](0)

    async def carry_in() -> None:
        async with to_server:
            while True:
                try:
                    line = await lines.receive_until(b"\n", MAX_LINE_BYTES)
                except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.DelimiterNotFound):
                    return
                try:
                    message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValueError:
                    continue  # the bridge sends what the agent sent
                await to_server.send(message)

    async def carry_out() -> None:
        async with from_server:
            async for message in from_server:
                text: str = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await stream.send(text.encode() + b"\n")

    async def guarded(work: Callable[[], Awaitable[None]]) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the bridge comes again
            await work()

    server = _make_server(caller, answer)
    async with background_tasks() as group:
        group.start_soon(guarded, carry_in)
        group.start_soon(guarded, carry_out)
        await server.run(server_reads, server_writes, server.create_initialization_options())


def _make_server(caller: str, answer: Answer) -> Server[Any]:
    import mcp_types as types
    from mcp.server.lowlevel import Server

    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        tool = types.Tool(name=TOOL_NAME, description=DESCRIPTION, input_schema=SCHEMA)
        return types.ListToolsResult(tools=[tool])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        path = (params.arguments or {}).get("path") or ""
        if params.name != TOOL_NAME or not isinstance(path, str):
            text, is_error = f"There is one tool, {TOOL_NAME}, with one argument, path (a string).", True
        else:
            text, is_error = await answer(caller, context.request_id, path)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=is_error)

    return Server("envoi-trace", on_list_tools=list_tools, on_call_tool=call_tool)


def _nonce(hello: bytes) -> str:
    """Who calls, as the bridge says; a connection that says nothing sound is a caller of its own."""
    try:
        nonce = json.loads(hello).get("bridge")
    except (ValueError, AttributeError):
        nonce = None
    return nonce if isinstance(nonce, str) and re.fullmatch(r"[0-9a-f]{32}", nonce) else uuid.uuid4().hex
