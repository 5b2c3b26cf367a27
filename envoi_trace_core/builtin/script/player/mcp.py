"""A small MCP client over stdio: enough to call one tool.

After https://modelcontextprotocol.io/specification/2025-06-18: newline-delimited JSON-RPC, `initialize`,
`notifications/initialized`, `tools/list`, `tools/call`, `notifications/cancelled`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from typing import Any

from .guard import Guard
from .inbox import Inbox, TurnInterruptedError

PROTOCOL_VERSIONS = ("2025-06-18", "2025-11-25", "2025-03-26", "2024-11-05")
"""The first is asked for; a server may answer with any other of them."""
START_TIMEOUT_S = 60.0
TOOL = "run_tests"


class McpError(Exception):
    """The server failed, or refused."""


class McpClient:
    """A server's process and the conversation with it."""

    def __init__(self, command: list[str], version: str, guard: Guard, inbox: Inbox) -> None:
        try:
            self._process = guard.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise McpError(f"the MCP server could not be started: {error}") from error
        self._version = version
        self._guard = guard
        self._inbox = inbox
        self._next_id = 0
        self._ended = False
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def initialize(self) -> None:
        """Agree on a version.

        Raises:
            McpError: The server does not answer, or speaks no version that we know.
        """
        about = {"name": "envoi-trace-script", "version": self._version}
        params = {"protocolVersion": PROTOCOL_VERSIONS[0], "capabilities": {}, "clientInfo": about}
        result = self._request("initialize", params, START_TIMEOUT_S)
        version = result.get("protocolVersion")
        if version not in PROTOCOL_VERSIONS:
            raise McpError(f"the MCP server speaks version {version!r}, which is none of {PROTOCOL_VERSIONS}")
        self._send({"method": "notifications/initialized"})

    def has_tool(self) -> bool:
        """Whether the server offers `run_tests`."""
        tools = self._request("tools/list", {}, START_TIMEOUT_S).get("tools")
        return isinstance(tools, list) and any(isinstance(tool, dict) and tool.get("name") == TOOL for tool in tools)

    def call(self, path: str, timeout_s: float) -> tuple[bool, str]:
        """Call `run_tests`: whether it went well, and its text."""
        result = self._request("tools/call", {"name": TOOL, "arguments": {"path": path}}, timeout_s)
        content = result.get("content")
        blocks = content if isinstance(content, list) else []
        texts = [str(block.get("text", "")) for block in blocks if isinstance(block, dict)]
        return not result.get("isError"), "\n".join(texts)

    @property
    def is_alive(self) -> bool:
        """Whether the server still runs."""
        return not self._ended and self._process.poll() is None

    def close(self) -> None:
        """End the server."""
        self._guard.end(self._process)

    def _request(self, method: str, params: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._next_id += 1
        number = self._next_id
        self._send({"id": number, "method": method, "params": params})
        try:
            while True:
                answer = None if self._ended else self._inbox.wait(self, timeout_s)
                if answer is None:
                    raise McpError("the MCP server ended")
                if answer.get("id") == number:
                    return self._result(answer)
        except TimeoutError:
            self._cancel(number)
            raise McpError(f"the MCP server gave no answer to {method} within {timeout_s:g} s") from None
        except TurnInterruptedError:
            self._cancel(number)
            raise

    def _result(self, answer: dict[str, Any]) -> dict[str, Any]:
        error = answer.get("error")
        if error is not None:
            raise McpError(str(error.get("message") if isinstance(error, dict) else error))
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def _cancel(self, number: int) -> None:
        with contextlib.suppress(McpError):
            self._send({"method": "notifications/cancelled", "params": {"requestId": number}})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
        assert self._process.stdin is not None
        try:
            with self._lock:
                self._process.stdin.write(line)
                self._process.stdin.flush()
        except OSError as error:
            raise McpError("the MCP server ended") from error

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if not isinstance(message, dict):
                continue
            if "method" not in message:
                self._inbox.post(self, message)
            elif "id" in message:
                self._answer(message)
        self._ended = True
        self._inbox.post(self, None)

    def _answer(self, request: dict[str, Any]) -> None:
        """Answer a request of the server's: a ping; we offer nothing else."""
        reply: dict[str, Any] = {"id": request["id"]}
        if request["method"] == "ping":
            reply["result"] = {}
        else:
            reply["error"] = {"code": -32601, "message": "this client offers no such method"}
        with contextlib.suppress(McpError):
            self._send(reply)
