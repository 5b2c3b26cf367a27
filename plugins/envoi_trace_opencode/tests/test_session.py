"""One session of the real OpenCode in a real sandbox, with a scripted model."""

from __future__ import annotations

import anyio
import pytest
from opencode_harness import CANARY, OpenCode
from opencode_scripted_model import Answer, Call, ScriptedModel, answer, shell

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(120)]

SEARCH = """
env | grep -c '{canary}'
env | grep -c '{placeholder}'
cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c '{canary}'
cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep '^OPENCODE_SERVER_PASSWORD=' | grep -vc '=x*$'
cat /proc/[0-9]*/cmdline 2>/dev/null | grep -ac '{canary}'
grep -rla '{canary}' "$PWD" {support} "$HOME" /tmp 2>/dev/null | wc -l
echo "pw=$OPENCODE_SERVER_PASSWORD xdg=$XDG_DATA_HOME home=$HOME"
"""


async def test_a_turn_has_its_parts_and_usage(opencode: OpenCode, model: ScriptedModel, mcp_server) -> None:
    opencode.mcp_servers = (mcp_server,)
    workspace = opencode.sandbox.workspace
    model.script(
        Answer(reasoning="look first", text="I look around.", calls=[shell("echo hello; exit 3")]),
        answer(Call("write", {"filePath": f"{workspace}/a.txt", "content": "one\n"})),
        answer(Call("edit", {"filePath": f"{workspace}/a.txt", "oldString": "nothing", "newString": "x"})),
        answer(Call("envoi_run_tests", {"path": "basics"})),
        Answer(text="All done."),
    )
    async with opencode.open() as session:
        await opencode.take(session, "write a.txt")
        session_id = session.session_id
        assert session.agent_version == "1.18.33"
    parts = opencode.parts(session_id)
    ends = [(part.part_type, part.tool_name, part.tool_status) for part in parts if part.part_type != "tool_use"]
    assert set(ends[:3]) == {("reasoning", None, None), ("text", None, None), ("tool_result", "bash", "completed")}
    assert ends[3:] == [
        ("patch", "write", "completed"),
        ("tool_result", "edit", "failed"),
        ("tool_result", "run_tests", "completed"),
        ("text", None, None),
    ]
    bash, tests = (
        next(part for part in parts if part.part_type == "tool_result" and part.tool_name == name)
        for name in ("bash", "run_tests")
    )
    assert (bash.tool_exit_code, bash.tool_output) == (3, "hello\n")
    assert tests.tool_output == "passed 3 of 5"
    assert opencode.total_tokens(session_id) == 5 * 1050
    assert model.requests[0].prompts[-1] == "write a.txt"
    assert model.requests[0].headers["authorization"] == f"Bearer {CANARY}"
    assert await opencode.processes("opencode", "mcp_server") == []


async def test_the_key_is_nowhere_and_commands_see_the_usual_environment(
    opencode: OpenCode, model: ScriptedModel
) -> None:
    await opencode.sandbox.write_file(
        f"{opencode.sandbox.support_dir}/search.sh",
        SEARCH.format(
            canary=CANARY.replace("sk-", "sk[-]"),  # so that neither the script nor grep finds itself
            placeholder="envoi-trace-[h]olds",
            support=opencode.sandbox.support_dir,
        ).encode(),
    )
    model.script(answer(shell(f"sh {opencode.sandbox.support_dir}/search.sh")), Answer(text="done"))
    async with opencode.open() as session:
        await opencode.take(session, "search")
        saved = await session.save_state()
    result = next(part for part in opencode.parts(session.session_id) if part.part_type == "tool_result")
    home = (await opencode.sandbox.run(("sh", "-c", 'printf %s "$HOME"'), timeout_s=10)).stdout.decode()
    assert result.tool_output is not None
    assert result.tool_output.splitlines() == ["0"] * 6 + [f"pw= xdg= home={home}"]
    assert model.requests[0].headers["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in "".join(output.raw for output in opencode.outputs)
    assert saved is not None


async def test_the_second_turn_goes_on_with_the_conversation(opencode: OpenCode, model: ScriptedModel) -> None:
    model.script(Answer(text="first answer"), Answer(text="second answer"))
    async with opencode.open() as session:
        await opencode.take(session, "one")
        await opencode.take(session, "two")
    assert model.requests[1].prompts[-2:] == ["one", "two"]
    assert [part.content for part in opencode.parts(session.session_id)] == ["first answer", "second answer"]
    assert [output.hands_back for output in opencode.outputs].count(True) == 2


async def test_an_interrupt_ends_a_long_command_and_all_that_it_started(
    opencode: OpenCode, model: ScriptedModel
) -> None:
    model.script(answer(shell("setsid -f sleep 901; (sleep 902 &); echo begun; sleep 903")), Answer(text="next"))
    async with opencode.open() as session, anyio.create_task_group() as tasks:
        tasks.start_soon(opencode.take, session, "work")
        await opencode.seen('"running"', "begun")
        with anyio.fail_after(15):
            await session.interrupt()
        assert await opencode.processes("sleep 90") == []
        await opencode.take(session, "go on")
    results = [part for part in opencode.parts(session.session_id) if part.part_type != "tool_use"]
    assert [(part.part_type, part.tool_status) for part in results] == [("tool_result", "interrupted"), ("text", None)]
    assert [output.hands_back for output in opencode.outputs].count(True) == 1, "interrupted, it does not hand back"


async def test_a_subagents_parts_are_told_apart(opencode: OpenCode, model: ScriptedModel) -> None:
    task = {"description": "sub", "prompt": "do sub", "subagent_type": "general"}
    model.script(
        answer(Call("task", task)),
        answer(shell("echo from-sub")),
        Answer(text="sub answer"),
        Answer(text="parent done"),
    )
    async with opencode.open() as session:
        await opencode.take(session, "delegate")
    parts = opencode.parts(session.session_id)
    child = {part.session_id for part in parts} - {None}
    assert len(child) == 1
    told = [(part.part_type, part.tool_name, part.session_id is not None) for part in parts]
    assert told == [
        ("tool_use", "task", False),
        ("tool_use", "bash", True),
        ("tool_result", "bash", True),
        ("text", None, True),
        ("tool_result", "task", False),
        ("text", None, False),
    ]
    assert opencode.total_tokens(session.session_id) == 4 * 1050


async def test_gpt_5_names_get_apply_patch(opencode: OpenCode, model: ScriptedModel) -> None:
    opencode.model_name = "acme/gpt-5-scripted"
    good = "*** Begin Patch\n*** Add File: p.txt\n+hi\n*** End Patch"
    bad = "*** Begin Patch\n*** Update File: none.txt\n@@\n-a\n+b\n*** End Patch"
    model.script(
        answer(Call("apply_patch", {"patchText": good})),
        answer(Call("apply_patch", {"patchText": bad})),
        Answer(text="patched"),
    )
    async with opencode.open() as session:
        await opencode.take(session, "patch")
    ends = [part for part in opencode.parts(session.session_id) if part.part_type in ("patch", "tool_result")]
    assert [(part.part_type, part.tool_status) for part in ends] == [("patch", "completed"), ("tool_result", "failed")]
    assert await opencode.sandbox.read_file(f"{opencode.sandbox.workspace}/p.txt", max_bytes=10) == b"hi\n"


async def test_nothing_waits_for_a_person(opencode: OpenCode, model: ScriptedModel) -> None:
    same = shell("cat /etc/hostname")
    question = {"questions": [{"question": "which?", "header": "q", "options": [{"label": "a", "description": "a"}]}]}
    model.script(
        *[answer(same, Call("read", {"filePath": "/etc/hostname"}))] * 4,
        answer(Call("question", question)),
        Answer(text="done"),
    )
    async with opencode.open() as session:
        with anyio.fail_after(60):
            await opencode.take(session, "outside, again and again")
    assert opencode.events("permission.asked") == []
    ends = [part for part in opencode.parts(session.session_id) if part.part_type == "tool_result"]
    assert [part.tool_status for part in ends] == ["completed"] * 8 + ["failed"]


async def test_parallel_calls_are_recorded_as_they_end(opencode: OpenCode, model: ScriptedModel) -> None:
    model.script(answer(shell("sleep 1.5; echo slow"), shell("echo fast")), Answer(text="done"))
    async with opencode.open() as session:
        await opencode.take(session, "both")
    ends = [part for part in opencode.parts(session.session_id) if part.part_type == "tool_result"]
    assert [part.tool_output for part in ends] == ["fast\n", "slow\n"]
