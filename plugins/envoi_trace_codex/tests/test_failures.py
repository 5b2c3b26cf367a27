"""How Codex's failures end a turn: in its own words, and in bounded time. Real binary, scripted faults."""

from __future__ import annotations

import socket
import time

import anyio
import pytest
from codex_scripted_model import Failure, Message, answer, shell

from envoi_trace_core.errors import AgentError
from envoi_trace_core.specs import McpServer

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

USAGE_LIMIT = {"type": "usage_limit_reached", "message": "limit", "plan_type": "plus", "resets_in_seconds": 3600}


async def failure(codex) -> AgentError:
    async with codex.open() as session:
        with anyio.fail_after(30), pytest.raises(AgentError) as caught:
            await codex.take(session, "go")
    assert any('"status":"failed"' in output.raw for output in codex.outputs)
    return caught.value


async def test_500_again_and_again(codex, model) -> None:
    model.play(*[Failure(500)] * 40)
    error = await failure(codex)
    assert "high demand" in error.message
    assert error.retryable
    assert len(model.requests) == 4


async def test_500_then_good_is_no_failure(codex, model) -> None:
    model.play(Failure(500), Failure(500), answer(Message("here I am")))
    async with codex.open() as session:
        await codex.take(session, "go")
    assert [part.content for part in codex.parts(session.session_id)] == ["here I am"]


async def test_429_waits_as_long_as_it_is_told(codex, model) -> None:
    too_many = {"message": "slow down", "type": "rate_limit_exceeded"}
    model.play(Failure(429, too_many, {"retry-after": "2"}), answer(Message("in time")))
    began = time.monotonic()
    async with codex.open() as session:
        await codex.take(session, "go")
        assert time.monotonic() - began >= 2
    assert [part.content for part in codex.parts(session.session_id)] == ["in time"]


async def test_429_for_ever(codex, model) -> None:
    model.play(*[Failure(429, {"message": "slow down", "type": "rate_limit_exceeded"}, {"retry-after": "0"})] * 40)
    error = await failure(codex)
    assert "429" in error.message
    assert error.retryable


async def test_a_usage_limit_fails_at_once_and_is_not_tried_again(codex, model) -> None:
    model.play(*[Failure(429, USAGE_LIMIT)] * 40)
    error = await failure(codex)
    assert "usage limit" in error.message
    assert not error.retryable
    assert error.mend
    assert "auth_file" in error.mend
    assert len(model.requests) == 1


async def test_401_names_what_mends_it(codex, model) -> None:
    model.play(*[Failure(401, {"message": "bad key", "type": "invalid_request_error"})] * 40)
    error = await failure(codex)
    assert "401 Unauthorized: bad key" in error.message
    assert not error.retryable
    assert error.mend
    assert "CODEX_API_KEY" in error.mend


async def test_a_refused_connection(codex) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        codex.set_option(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        error = await failure(codex)
    assert "error sending request" in error.message
    assert error.retryable


async def test_a_stream_that_breaks_off_keeps_what_came_and_goes_on(codex, model) -> None:
    model.play(answer(Message("half"), cut=True), answer(Message("whole")))
    async with codex.open() as session:
        await codex.take(session, "go")
    assert [part.content for part in codex.parts(session.session_id)][-1] == "whole"


async def test_streams_that_always_break_off(codex, model) -> None:
    model.play(*[answer(cut=True)] * 40)
    error = await failure(codex)
    assert "stream" in error.message
    assert error.retryable


async def test_a_broken_mcp_server(codex) -> None:
    codex.mcp_servers = (McpServer(name="tests", command=("false",), tool_timeout_s=10),)
    with anyio.fail_after(30), pytest.raises(AgentError, match="required MCP servers failed") as caught:
        async with codex.open():
            pass
    assert caught.value.retryable


async def test_an_mcp_server_that_dies_fails_the_call_only(codex, model, mcp_server, sandbox) -> None:
    from codex_scripted_model import Call

    codex.mcp_servers = (mcp_server,)
    model.play(
        answer(shell("for d in /proc/[0-9]*; do tr '\\0' ' ' <$d/cmdline | grep -q '^[^ ]*python.*mcp_server.py'"
                     " && kill -9 ${d#/proc/}; done; true")),
        answer(Call("run_tests", {"path": ""}, "mcp__tests")),
        answer(Message("done")),
    )  # fmt: skip
    async with codex.open() as session:
        await codex.take(session, "go")
    call = next(part for part in codex.parts(session.session_id) if part.tool_name == "run_tests")
    assert call.tool_status == "failed"
    assert "Transport closed" in call.tool_error


async def test_a_program_that_is_no_codex(codex, sandbox) -> None:
    path = f"{sandbox.support_dir}/not-codex"
    script = '[ "$1" = --version ] && echo codex-cli 0.163.0 && exit\necho no >&2; exit 9\n'
    await sandbox.write_file(path, f"#!/bin/sh\n{script}".encode(), mode=0o755)
    codex.set_option(binary=path, version="", start_timeout_s=5.0)
    with anyio.fail_after(30), pytest.raises(AgentError, match="ended with exit status 9: no"):
        async with codex.open():
            pass


async def test_a_version_that_is_not_allowed(codex) -> None:
    from envoi_trace_core.errors import UsageError

    codex.set_option(version="not a version")
    with pytest.raises(UsageError, match="is no version"):
        async with codex.open():
            pass


async def test_a_codex_without_hooks_is_said_once(codex, model, sandbox, monkeypatch) -> None:
    from envoi_trace_codex import config

    model.play(answer(shell("echo one > a.txt")), answer(Message("done")))
    # An older Codex knows no such table, and reads over it.
    monkeypatch.setattr(
        "envoi_trace_codex.opening.render", lambda given: config.render(given).replace("[[hooks.", "[[x.")
    )
    async with codex.open() as session:
        await codex.take(session, "go")
    assert len([line for line in codex.reports if "runs no hook" in line]) == 1
    assert [part.tool_exit_code for part in codex.parts(session.session_id) if part.call_id] == [0]
