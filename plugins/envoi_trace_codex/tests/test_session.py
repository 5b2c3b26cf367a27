"""Sessions with the real binary and a scripted model."""

from __future__ import annotations

import io
import json
import re
import tarfile
from datetime import UTC, datetime

import anyio
import pytest
from codex_harness import CANARY
from codex_scripted_model import Call, Custom, Message, Reasoning, answer, patch, shell

from envoi_trace_core.errors import AgentError
from envoi_trace_core.repo.repository import Repository
from envoi_trace_core.trace.redact import Redactor
from envoi_trace_core.trace.redact_archive import masked_state

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_turn_gives_every_kind_of_part(codex, model, mcp_server) -> None:
    codex.mcp_servers = (mcp_server,)
    model.play(
        answer(Reasoning("look first"), Message("I look."), shell("echo hello")),
        answer(shell("echo out; echo err >&2; exit 3")),
        answer(patch("*** Add File: hello.py", "+print('hi')")),
        answer(patch("*** Update File: missing.py", "@@", "-a", "+b")),
        answer(Call("no_such_tool", {"a": 1})),
        answer(Call("run_tests", {"path": "basics"}, "mcp__tests")),
        answer(Message("All done.")),
    )
    async with codex.open() as session:
        await codex.take(session, "build it")
    parts = codex.parts(session.session_id)
    assert [(part.part_type, part.tool_name, part.tool_status) for part in parts] == [
        ("reasoning", None, None),
        ("text", None, None),
        ("tool", "shell", "completed"),
        ("tool", "shell", "failed"),
        ("patch", "apply_patch", "completed"),
        ("patch", "apply_patch", "failed"),
        ("tool", "no_such_tool", "failed"),
        ("tool", "run_tests", "completed"),
        ("text", None, None),
    ]
    assert parts[2].tool_output == "hello\n"
    assert parts[3].tool_exit_code == 3
    assert "verification failed" in parts[5].tool_error
    assert parts[7].tool_output == "passed 3 of 5"
    assert codex.total_tokens(session.session_id) == 7 * 1050
    assert session.agent_version == (codex.options.version or "0.163.0")
    assert [line for line in codex.reports if "installed" not in line and "installing" not in line] == []
    assert {request.headers["authorization"] for request in model.requests} == {f"Bearer {CANARY}"}


async def test_the_key_is_nowhere_but_in_the_request(codex, model, sandbox) -> None:
    look = (
        "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n';"
        f"ls -R {sandbox.support_dir}; cat {sandbox.support_dir}/codex/home/config.toml"
    )
    model.play(answer(shell(look)), answer(Message("done")))
    async with codex.open() as session:
        await codex.take(session, "look")
        found = await sandbox.run(
            ("sh", "-c", 'grep -rlaF -e "$(cat)" "$1" "$2" /proc/[0-9]*/environ /proc/[0-9]*/cmdline; true', "sh",
             sandbox.support_dir, sandbox.workspace), stdin=CANARY.encode(), timeout_s=30,
        )  # fmt: skip
        archive = await session.save_state()
    (command, *_rest) = codex.parts(session.session_id)
    assert "CODEX_HOME" in command.tool_output
    assert "requires_openai_auth = true" in command.tool_output
    assert found.stdout == b""
    assert CANARY not in "".join(output.raw for output in codex.outputs)
    assert archive is not None
    assert {request.headers["authorization"] for request in model.requests} == {f"Bearer {CANARY}"}


async def test_a_named_login_file_comes_before_the_environment(codex, model, tmp_path) -> None:
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": "sk-from-the-file"}))
    codex.set_option(auth_file=str(path))
    async with codex.open() as session:
        await codex.take(session, "hello")
    assert [request.headers["authorization"] for request in model.requests] == ["Bearer sk-from-the-file"]


async def test_of_a_chatgpt_login_only_the_access_token_enters_the_sandbox(codex, model, tmp_path, sandbox) -> None:
    tokens = {"access_token": "head.e30.access", "refresh_token": "refresh-canary", "account_id": "account-1"}
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"tokens": tokens}))
    codex.set_option(auth_file=str(path))
    async with codex.open() as session:
        await codex.take(session, "hello")
        found = await sandbox.run(
            ("grep", "-rlaF", "-e", "refresh-canary", "-e", "head.e30.access", sandbox.support_dir), timeout_s=30
        )
    assert found.stdout == b""
    assert model.requests[0].headers["authorization"] == "Bearer head.e30.access"
    assert model.requests[0].headers["chatgpt-account-id"] == "account-1"


async def test_fifty_changes_without_a_pause_are_fifty_exact_checkpoints(codex, model, sandbox) -> None:
    snapshots = f"{sandbox.support_dir}/snapshots"
    keep = 'mkdir -p "$0" && cp "$1/file.txt" "$0/$2"'
    codex.checkpoint_command = ("sh", "-c", keep, snapshots, sandbox.workspace)
    changes = [answer(shell(f"echo {n} > file.txt")) for n in range(25)]
    changes += [answer(patch("*** Update File: file.txt", "@@", f"-{n - 1}", f"+{n}")) for n in range(25, 50)]
    model.play(*changes, answer(Message("done")))
    async with codex.open() as session:
        await codex.take(session, "count")
        parts = [part for part in codex.parts(session.session_id) if part.may_change_files]
        read = await sandbox.run(("sh", "-c", 'cd "$1"; for id in $(cat); do cat "$id"; done', "sh", snapshots),
            stdin="\n".join(part.call_id for part in parts).encode(), timeout_s=30)  # fmt: skip
    assert read.stdout.decode().split() == [str(n) for n in range(50)]


async def test_checkpoints_of_the_real_repository_are_exact(codex, model, sandbox, tmp_path) -> None:
    repository = await Repository.open(mirror_dir=tmp_path / "mirror.git", sandbox=sandbox)
    await repository.begin(datetime.now(UTC))
    codex.checkpoint_command = repository.hook_command
    changes = [answer(shell(f"echo {n} > file.txt")) for n in range(25)]
    changes += [answer(patch("*** Update File: file.txt", "@@", f"-{n - 1}", f"+{n}")) for n in range(25, 50)]
    model.play(*changes, answer(Message("done")))
    async with codex.open() as session:
        await codex.take(session, "count")
        parts = [part for part in codex.parts(session.session_id) if part.may_change_files]
        results = [
            await repository.checkpoint(call_id=part.call_id, part=number, at=datetime.now(UTC))
            for number, part in enumerate(parts, 1)
        ]
    assert len({result.commit for result in results}) == 50
    assert not any(result.is_late or result.warning for result in results)
    for n, result in enumerate(results):
        assert f"+{n}\n" in (result.patch or "")


async def test_a_command_that_goes_on_in_the_background_is_told_when_it_ends(codex, model, sandbox) -> None:
    done = f"{sandbox.support_dir}/checkpoints"
    codex.checkpoint_command = ("sh", "-c", f'echo "$1" >> {done}', "sh")
    model.play(
        answer(shell("read x; echo got $x > w.txt", tty=True, yield_time_ms=250)),
        lambda request: answer(
            Call("write_stdin", {"session_id": running_session(request), "chars": "hello\n", "yield_time_ms": 5000})
        ),
        answer(Message("done")),
    )
    async with codex.open() as session:
        await codex.take(session, "go")
        checkpoints = (await sandbox.read_file(done, max_bytes=1000)).decode().split()
    parts = codex.parts(session.session_id)
    assert [(part.tool_name, part.may_change_files) for part in parts] == [
        ("shell", True), ("write_stdin", False), (None, False),
    ]  # fmt: skip
    assert parts[0].tool_exit_code == 0
    assert checkpoints == [parts[0].call_id]
    assert codex.total_tokens(session.session_id) == 3 * 1050


def running_session(request) -> int:
    return int(re.findall(r"session ID (\d+)", request.text)[-1])


async def test_a_part_is_given_only_after_its_checkpoint(codex, model, sandbox) -> None:
    done = f"{sandbox.support_dir}/checkpoint-done"
    codex.checkpoint_command = ("sh", "-c", f"sleep 0.5; touch {done}")
    model.play(answer(shell("true")), answer(Message("done")))
    async with codex.open() as session:
        lines: list[str] = []
        async for output in session.turn("go"):
            lines.append(output.raw)
            told = [draft for draft in codex.parse(lines, session.session_id) if getattr(draft, "call_id", None)]
            commands = [draft for draft in told if getattr(draft, "tool_exit_code", None) is not None]
            if commands:
                assert (await sandbox.run(("test", "-e", done), timeout_s=10)).exit_code == 0
                break
        else:
            pytest.fail("no command was told")


async def test_a_code_mode_model_gives_its_script_and_what_the_script_called(codex, model) -> None:
    codex.model_name = "gpt-6-sol"
    script = 'await tools.exec_command({cmd: "echo one > a.txt; exit 4"}); text("made it")'
    model.play(answer(Reasoning("hm"), Custom("exec", script)), answer(Message("done")))
    async with codex.open() as session:
        await codex.take(session, "go")
    parts = codex.parts(session.session_id)
    assert [(part.part_type, part.tool_name, part.tool_exit_code) for part in parts] == [
        ("reasoning", None, None), ("tool", "shell", 4), ("tool", "exec", None), ("text", None, None),
    ]  # fmt: skip
    assert "made it" in parts[2].tool_output
    assert codex.total_tokens(session.session_id) == 2 * 1050


async def test_two_turns_of_one_thread(codex, model) -> None:
    model.play(answer(Message("first")), answer(Message("second")))
    async with codex.open() as session:
        await codex.take(session, "one")
        await codex.take(session, "passed 3 of 5 tests")
    assert [part.content for part in codex.parts(session.session_id)] == ["first", "second"]
    assert [output.hands_back for output in codex.outputs].count(True) == 2
    assert "passed 3 of 5 tests" in model.requests[1].text
    assert "first" in model.requests[1].text


# -- interrupts -----------------------------------------------------------------------------------


async def processes(sandbox, word: str) -> list[str]:
    found = await sandbox.run(("sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"), timeout_s=10)
    return [line for line in found.stdout.decode().split("sleep ") if line.startswith(word)]


async def test_an_interrupt_in_a_long_command_leaves_no_process(codex, model, sandbox) -> None:
    model.play(answer(shell("setsid sleep 7001 & (sleep 7002 &) ; sleep 7003", yield_time_ms=30000)))
    async with codex.open() as session:
        async with anyio.create_task_group() as group:

            async def interrupt() -> None:
                await codex.seen('"item/started"', "sleep 7003")
                await session.interrupt()

            group.start_soon(interrupt)
            with anyio.fail_after(25):
                await codex.take(session, "sleep")
        left = [word for word in ("7001", "7002", "7003") if await processes(sandbox, word)]
    assert left == []
    (command,) = [part for part in codex.parts(session.session_id) if part.tool_name == "shell"]
    assert command.tool_exit_code in (-1, 137)  # as Codex saw its end first, or the kill
    assert codex.total_tokens(session.session_id) == 1050


async def test_a_thread_goes_on_after_an_interrupt(codex, model) -> None:
    model.play(answer(shell("sleep 7004", yield_time_ms=30000)), answer(Message("after it")))
    async with codex.open() as session:
        await session.interrupt()  # none in flight
        async with anyio.create_task_group() as group:
            group.start_soon(codex.take, session, "sleep")
            await codex.seen('"item/started"', "sleep 7004")
            await session.interrupt()
        await codex.take(session, "go on")
    assert codex.parts(session.session_id)[-1].content == "after it"
    assert [output.hands_back for output in codex.outputs].count(True) == 1, "an interrupted agent does not hand back"


# -- resume ---------------------------------------------------------------------------------------


async def take_some(codex, session, prompt: str, until: str) -> None:
    """Take messages as an orchestrator that is killed: the process is left running."""
    async for output in session.turn(prompt):
        codex.outputs.append(output)
        if until in output.raw:
            return


async def kill_when(sandbox, codex, word: str) -> None:
    """Kill Codex as soon as a command with that word runs."""
    await codex.seen('"item/started"', word)
    killed = await sandbox.run(
        ("sh", "-c", "for d in /proc/[0-9]*; do case $(readlink $d/exe) in */codex) kill -9 ${d#/proc/};; esac; done"),
        timeout_s=10,
    )
    assert killed.exit_code == 0, killed


async def test_the_orchestrator_died_in_a_turn_and_the_turn_goes_on(codex, model) -> None:
    model.play(answer(shell("sleep 1; echo slept")), answer(Message("done")), answer(Message("and more")))
    first = codex.open()
    session = await first.__aenter__()  # never left: its end would end Codex
    await take_some(codex, session, "sleep", until='"item/started"')
    async with codex.open(codex.resume_state(session.session_id)) as again:
        assert again.session_id == session.session_id
        assert again.turn_in_flight
        await codex.take(again, None)
        await codex.take(again, "more")
    assert [part.tool_output or part.content for part in codex.parts(session.session_id)] == [
        "slept\n", "done", "and more",
    ]  # fmt: skip
    assert len(model.requests) == 3
    assert codex.total_tokens(session.session_id) == 3 * 1050
    assert len({output.position for output in codex.outputs}) == len(codex.outputs)


async def test_a_turn_that_ended_while_nobody_watched_is_read_to_its_end(codex, model, sandbox) -> None:
    model.play(answer(shell("echo quick")), answer(Message("done")))
    first = codex.open()
    session = await first.__aenter__()  # never left
    await take_some(codex, session, "quick", until='"turn/started"')
    with anyio.fail_after(15):
        name = codex.outputs[0].position.partition(":")[0]
        path = f"{sandbox.support_dir}/processes/{name}/out"
        while b'"turn/completed"' not in await sandbox.read_file(path, max_bytes=10**8):  # noqa: ASYNC110
            await anyio.sleep(0.05)
    async with codex.open(codex.resume_state(session.session_id)) as again:
        assert again.turn_in_flight
        await codex.take(again, None)
    assert [part.tool_output or part.content for part in codex.parts(session.session_id)] == ["quick\n", "done"]


async def test_codex_was_killed_and_its_thread_goes_on_in_a_new_process(codex, model, sandbox) -> None:
    model.play(answer(Message("I begin"), shell("echo before; sleep 7005", yield_time_ms=30000)))
    async with codex.open() as session, anyio.create_task_group() as group:
        group.start_soon(kill_when, sandbox, codex, "7005")
        with pytest.raises(AgentError, match="app-server ended with exit status 137") as caught:
            await codex.take(session, "go")
    assert caught.value.retryable
    assert await processes(sandbox, "7005") == []
    model.play(answer(patch("*** Update File: missing.py", "@@", "-a", "+b")), answer(Message("I went on")))
    async with codex.open(codex.resume_state(session.session_id)) as again:
        assert again.session_id == session.session_id
        assert not again.turn_in_flight
        await codex.take(again, "go on")
    contents = [part.content for part in codex.parts(session.session_id) if part.part_type == "text"]
    assert contents == ["I begin", "I went on"]
    assert "I begin" in model.requests[-1].text
    patches = [part for part in codex.parts(session.session_id) if part.part_type == "patch"]
    assert [part.tool_status for part in patches] == ["failed"]


async def test_a_thread_goes_on_in_a_new_sandbox(codex, model, make_sandbox) -> None:
    model.play(answer(Message("in the first sandbox")), answer(Message("in the second")))
    async with codex.open() as session:
        await codex.take(session, "one")
        archive = await session.save_state()
    codex.sandbox = await make_sandbox("two")
    resume = codex.resume_state(session.session_id, archive=archive, same_sandbox=False, turn_in_flight=False)
    async with codex.open(resume) as again:
        assert again.session_id == session.session_id
        await codex.take(again, "two")
    assert "in the first sandbox" in model.requests[-1].text
    assert [part.content for part in codex.parts(session.session_id)] == ["in the first sandbox", "in the second"]
    assert codex.total_tokens(session.session_id) == 2 * 1050


async def test_a_state_without_secrets_goes_on_in_a_new_sandbox(codex, model, make_sandbox) -> None:
    secret = "canary/of-a+plugin"
    model.play(answer(Message(f"it is {secret}"), shell(f"echo '{secret}'")), answer(Message("done")))
    async with codex.open() as session:
        await codex.take(session, "one")
        archive = await session.save_state()
    masked = masked_state(archive, Redactor({"CANARY": secret}))
    codex.sandbox = await make_sandbox("two")
    resume = codex.resume_state(session.session_id, archive=masked, same_sandbox=False, turn_in_flight=False)
    model.play(answer(Message("in the second")))
    async with codex.open(resume) as again:
        assert again.session_id == session.session_id
        await codex.take(again, "two")
    assert f"it is {'*' * len(secret)}" in model.requests[-1].text
    assert "canary" not in model.requests[-1].text


async def test_a_lost_thread_is_begun_anew_and_said_so(codex, model) -> None:
    model.play(answer(Message("hello")))
    lost = codex.resume_state("01a205b2-38cc-71d2-8b46-e127aa3eb134", position=None, same_sandbox=False)
    async with codex.open(lost) as session:
        assert session.session_id != lost.session_id
        await codex.take(session, "hello")
    assert any("a new one begins" in line for line in codex.reports)


async def test_a_state_that_was_saved_in_the_middle_of_a_turn_is_enough(codex, model, make_sandbox) -> None:
    model.play(answer(Message("I begin"), shell("sleep 7006", yield_time_ms=30000)))
    async with codex.open() as session, anyio.create_task_group() as group:
        group.start_soon(codex.take, session, "go")
        await codex.seen('"item/started"', "sleep 7006")
        archive = await session.save_state()
        await session.interrupt()
    assert archive is not None
    model.play(answer(Message("I went on")))
    for cut in (0, 20):  # the last line may be cut where tar read it
        codex.sandbox = await make_sandbox(f"cut-{cut}")
        resume = codex.resume_state(session.session_id, archive=shortened(archive, cut), same_sandbox=False)
        async with codex.open(resume) as again:
            assert again.session_id == session.session_id
            await codex.take(again, "go on")
        assert "I begin" in model.requests[-1].text


def shortened(archive: bytes, by: int) -> bytes:
    """The archive, with so many bytes less at the end of its rollout file."""
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=made, mode="w:gz") as new:
        for member in old:
            data = old.extractfile(member)
            content = b"" if data is None else data.read()
            member.size = max(len(content) - by, 0)
            new.addfile(member, io.BytesIO(content[: member.size]))
    return made.getvalue()
