"""Faults of the model's server, of OpenCode, of the orchestrator and of the sandbox; all for real."""

from __future__ import annotations

import socket

import anyio
import pytest
from opencode_harness import OpenCode
from opencode_scripted_model import Answer, Call, Failure, ScriptedModel, answer, shell

from envoi_trace_core.errors import AgentError, UsageError
from envoi_trace_core.sandboxing.detached import DetachedProcess
from envoi_trace_core.trace.redact import Redactor
from envoi_trace_core.trace.redact_archive import masked_state

KILL_DRIVER = """
for file in $(ls -v -d /proc/[0-9]*/cmdline); do
  case $(tr '\\0' ' ' <"$file" 2>/dev/null) in
    /*python*driver.pyz*) pid=${file#/proc/}; kill -9 "${pid%/cmdline}"; [ "$1" = True ] || exit 0;;
  esac
done
"""

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(120)]

KILL_SERVER = """
for file in /proc/[0-9]*/cmdline; do
  case $(tr '\\0' ' ' <"$file" 2>/dev/null) in *"opencode serve"*) pid=${file#/proc/}; kill -9 "${pid%/cmdline}";; esac
done
"""

SIGNAL_DRIVER = """
for file in /proc/[0-9]*/cmdline; do
  case $(tr '\\0' ' ' <"$file" 2>/dev/null) in *"driver".pyz*) pid=${{file#/proc/}}; kill -{} "${{pid%/cmdline}}";; esac
done
"""


async def test_failures_that_pass_are_tried_again(opencode: OpenCode, model: ScriptedModel) -> None:
    model.script(
        Failure(500, "scripted 500"), Failure(429, "slow down", {"retry-after": "1"}), Answer(text="recovered")
    )
    async with opencode.open() as session:
        await opencode.take(session, "go")
    assert [part.content for part in opencode.parts(session.session_id)] == ["recovered"]


async def test_a_model_that_only_fails_ends_the_turn_in_time_with_its_words(
    opencode: OpenCode, model: ScriptedModel
) -> None:
    opencode.set_option(retry_timeout_s=5.0)
    model.script(Failure(503, "we are overloaded"))
    async with opencode.open() as session:
        with anyio.fail_after(30), pytest.raises(AgentError, match="we are overloaded") as caught:
            await opencode.take(session, "go")
        assert caught.value.retryable
        model.script(Answer(text="better"))
        await opencode.take(session, "again")
    assert opencode.parts(session.session_id)[-1].content == "better"


async def test_a_wait_beyond_our_patience_ends_the_turn_at_once(opencode: OpenCode, model: ScriptedModel) -> None:
    model.script(Failure(429, "usage limit reached", {"retry-after": "7200"}))
    async with opencode.open() as session:
        with anyio.fail_after(30), pytest.raises(AgentError, match="usage limit reached"):
            await opencode.take(session, "go")


@pytest.mark.parametrize(("status", "words"), [(400, "scripted bad request"), (401, "invalid api key")])
async def test_a_refusal_fails_with_the_servers_words(
    opencode: OpenCode, model: ScriptedModel, status: int, words: str
) -> None:
    model.script(Failure(status, words))
    async with opencode.open() as session:
        with anyio.fail_after(30), pytest.raises(AgentError, match=words) as caught:
            await opencode.take(session, "go")
        assert not caught.value.retryable
        model.script(Answer(text="better"))
        await opencode.take(session, "again")
    assert opencode.parts(session.session_id)[-1].content == "better"


async def test_a_model_that_cant_be_reached(opencode: OpenCode) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        opencode.set_option(base_url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1", retry_timeout_s=3.0)
        async with opencode.open() as session:
            with anyio.fail_after(30), pytest.raises(AgentError, match=r"can't be reached.*refused"):
                await opencode.take(session, "go")


async def test_dropped_streams_and_calls_that_are_none(opencode: OpenCode, model: ScriptedModel) -> None:
    model.script(
        Answer(text="dropped partial", drops=True),
        answer(Call("bash", '{"command": "echo bad json')),
        answer(Call("no_such_tool", {"a": 1})),
        Answer(text="after all"),
    )
    async with opencode.open() as session:
        await opencode.take(session, "go")
    parts = [part for part in opencode.parts(session.session_id) if part.part_type != "tool_use"]
    assert [(part.part_type, part.tool_name, part.tool_status) for part in parts] == [
        ("text", None, None),
        ("tool_result", "bash", "failed"),
        ("tool_result", "no_such_tool", "failed"),
        ("text", None, None),
    ]
    assert parts[0].content == "dropped partial"


async def test_an_mcp_server_that_does_not_start(opencode: OpenCode, mcp_server) -> None:
    import attrs

    opencode.mcp_servers = (attrs.evolve(mcp_server, command=("/bin/false",)),)
    with pytest.raises(AgentError, match="MCP server envoi"):
        async with opencode.open():
            pass
    assert await opencode.processes("opencode") == []


async def test_a_killed_server_takes_its_commands_along_and_is_started_again(
    opencode: OpenCode, model: ScriptedModel
) -> None:
    model.script(answer(shell("echo begun; sleep 904")), Answer(text="resumed"))
    async with opencode.open() as session:
        async with anyio.create_task_group() as tasks:

            async def kill() -> None:
                await opencode.seen('"running"', "begun")
                await opencode.sandbox.run(("sh", "-c", KILL_SERVER), timeout_s=20)

            tasks.start_soon(kill)
            with anyio.fail_after(60), pytest.raises(AgentError, match="killed by signal 9") as caught:
                await opencode.take(session, "work")
        assert caught.value.retryable
        assert await opencode.processes("sleep 904") == []
        await opencode.take(session, "go on")
    parts = opencode.parts(session.session_id)
    assert [(part.part_type, part.tool_status) for part in parts] == [
        ("tool_use", "running"),
        ("tool_result", "interrupted"),
        ("text", None),
    ]
    assert model.requests[-1].prompts[-2:] == ["work", "go on"]


@pytest.mark.parametrize("with_guard", [False, True])
async def test_a_killed_driver_takes_everything_along_and_another_goes_on(
    opencode: OpenCode, model: ScriptedModel, *, with_guard: bool
) -> None:
    model.script(answer(shell("echo begun; sleep 905")), Answer(text="resumed"))
    async with opencode.open() as session:
        async with anyio.create_task_group() as tasks:

            async def kill() -> None:
                await opencode.seen('"running"', "begun")
                await opencode.sandbox.run(("sh", "-c", KILL_DRIVER, "sh", str(with_guard)), timeout_s=20)

            tasks.start_soon(kill)
            with anyio.fail_after(60), pytest.raises(AgentError, match="driver of OpenCode was killed"):
                await opencode.take(session, "work")
        with anyio.fail_after(10):
            while not with_guard and await opencode.processes("sleep 905", "opencode serve"):  # noqa: ASYNC110
                await anyio.sleep(0.05)
    async with opencode.open(opencode.resume_state(session.session_id)) as again:
        assert await opencode.processes("sleep 905") == []
        assert len(await opencode.processes("opencode serve")) == 1
        assert again.session_id == session.session_id
        assert not again.turn_in_flight
        await opencode.take(again, "go on")
    assert [(part.part_type, part.tool_status) for part in opencode.parts(session.session_id)] == [
        ("tool_use", "running"),
        ("tool_result", "interrupted"),
        ("text", None),
    ]


async def test_an_orchestrator_that_died_finds_the_turn_going_on(opencode: OpenCode, model: ScriptedModel) -> None:
    model.script(answer(shell("echo one")), Answer(text="half", holds=True), Answer(text="not asked for"))
    # An orchestrator that is killed leaves no context: nothing of this one is ever closed.
    abandoned = opencode.open()
    session = await abandoned.__aenter__()
    with anyio.CancelScope() as scope:
        async for output in session.turn("work"):
            opencode.outputs.append(output)
            if '"completed"' in output.raw:
                scope.cancel()
    model.let_go()
    model.wait_requests(2)
    async with opencode.open(opencode.resume_state(session.session_id)) as again:
        assert again.session_id == session.session_id
        assert again.turn_in_flight
        await opencode.take(again, None)
    parts = opencode.parts(session.session_id)
    assert [(part.part_type, part.content) for part in parts if part.part_type != "tool_use"][1:] == [("text", "half")]
    ids = [event["id"] for output in [opencode.events("message.part.updated")] for event in output if "id" in event]
    assert len(ids) == len(set(ids))
    assert len(model.requests) == 2
    del abandoned


async def test_a_turn_that_ended_while_nobody_looked(opencode: OpenCode, model: ScriptedModel) -> None:
    model.script(Answer(text="first"), Answer(text="second"))
    abandoned = opencode.open()
    session = await abandoned.__aenter__()
    with anyio.CancelScope() as scope:
        async for _output in session.turn("work"):
            scope.cancel()
    model.wait_requests(1)
    state = opencode.resume_state(session.session_id)
    async with opencode.open(state) as again:
        assert again.turn_in_flight
        await opencode.take(again, None)
        assert [part.content for part in opencode.parts(session.session_id)] == ["first"]
        await opencode.take(again, "more")
    assert [part.content for part in opencode.parts(session.session_id)] == ["first", "second"]
    del abandoned


async def test_a_prompt_that_was_not_taken_up_yet_is_not_handed_over_twice(
    opencode: OpenCode, model: ScriptedModel
) -> None:
    model.script(Answer(text="only once"))
    abandoned = opencode.open()
    session = await abandoned.__aenter__()
    signal_driver = SIGNAL_DRIVER.format
    await opencode.sandbox.run(("sh", "-c", signal_driver("STOP")), timeout_s=20)
    # As `turn` writes it. Stopped, the driver is as slow as can be.
    process = await DetachedProcess.attach(opencode.sandbox, session._process.name)
    await process.write(b'{"type": "prompt", "turn_id": "a", "text": "work"}\n')
    async with opencode.open(opencode.resume_state(session.session_id)) as again:
        await opencode.sandbox.run(("sh", "-c", signal_driver("CONT")), timeout_s=20)
        assert again.turn_in_flight
        await opencode.take(again, None)
    assert [part.content for part in opencode.parts(session.session_id)] == ["only once"]
    assert len(model.requests) == 1
    del abandoned


async def test_the_conversation_goes_on_in_a_new_sandbox(
    opencode: OpenCode, model: ScriptedModel, make_sandbox
) -> None:
    model.script(answer(shell("echo one")), Answer(text="first answer"))
    async with opencode.open() as session:
        await opencode.take(session, "remember me")
        archive = await session.save_state()
    assert archive is not None
    await opencode.sandbox.close()
    opencode.sandbox = await make_sandbox("two")
    model.script(Answer(text="second answer"))
    state = opencode.resume_state(session.session_id, archive=archive, same_sandbox=False, turn_in_flight=False)
    async with opencode.open(state) as again:
        assert again.session_id == session.session_id
        await opencode.take(again, "and now?")
    assert model.requests[-1].prompts[-2:] == ["remember me", "and now?"]
    texts = [part.content for part in opencode.parts(session.session_id) if part.part_type == "text"]
    assert texts == ["first answer", "second answer"]


async def test_a_record_without_secrets_goes_on_in_a_new_sandbox(
    opencode: OpenCode, model: ScriptedModel, make_sandbox
) -> None:
    secret = "sk-canary-of-a-plugin"
    model.script(answer(shell(f"echo {secret}; head -c 20000 /dev/zero | tr '\\0' x")), Answer(text=f"it is {secret}"))
    async with opencode.open() as session:
        await opencode.take(session, f"remember {secret}")
        archive = await session.save_state()
    assert archive is not None
    await opencode.sandbox.close()
    opencode.sandbox = await make_sandbox("two")
    model.script(Answer(text="second answer"))
    masked = masked_state(archive, Redactor({"CANARY": secret}))
    state = opencode.resume_state(session.session_id, archive=masked, same_sandbox=False, turn_in_flight=False)
    async with opencode.open(state) as again:
        assert again.session_id == session.session_id
        await opencode.take(again, "and now?")
    assert model.requests[-1].prompts[-2:] == [f"remember {'*' * len(secret)}", "and now?"]


async def test_without_a_record_a_new_session_begins(opencode: OpenCode, model: ScriptedModel) -> None:
    state = opencode.resume_state("ses_gone", same_sandbox=False, turn_in_flight=False)
    async with opencode.open(state) as session:
        assert session.session_id != "ses_gone"
    assert "new session" in opencode.reports[-1]


async def test_no_model_is_wrong_use_and_starts_nothing(opencode: OpenCode) -> None:
    opencode.model_name = ""
    with pytest.raises(UsageError) as caught:
        async with opencode.open():
            pass
    assert "--model anthropic/" in (caught.value.mend or "")
