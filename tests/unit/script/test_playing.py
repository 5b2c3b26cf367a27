"""The player for real: in a sandbox, as a detached process, with a hook and an MCP server."""

from __future__ import annotations

import json

import attrs
import pytest

from envoi_trace_core.domain.drafts import UsageDraft
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_core.errors import AgentError
from envoi_trace_core.protocols import AgentSession

pytestmark = pytest.mark.anyio


async def collect(session: AgentSession, into: list[str]) -> None:
    async for output in session.turn("go"):
        into.append(output.raw)  # noqa: PERF401  # what came before an error counts


async def test_every_kind_of_line_makes_its_parts(stage, play, drafts_of):
    stage.add_mcp()
    diff = "--- a/a/b.txt\n+++ b/a/b.txt\n@@ -1 +1 @@\n-one\n+two\n"
    raws = await play(
        {"reasoning": "think"},
        {"text": "long " * 2000},
        {"run": "echo out; echo err >&2; exit 3", "timeout_s": 20},
        {"write": "a/b.txt", "content": "one\n"},
        {"usage": {"input": 900, "output": 50, "cost_usd": 0.01}},
        {"patch": diff},
        {"run_tests": "suite/one"},
        {"sleep": 0.01},
        {"run_tests": "bad"},
    )
    drafts = drafts_of(raws)
    session_id = json.loads(raws[0])["session_id"]
    usage = [draft for draft in drafts if isinstance(draft, UsageDraft)]
    assert usage == [
        UsageDraft(usage=TokenUsage(input=900, output=50, total=950), cost_usd=0.01, call_id=f"{session_id}-4")
    ]
    parts = [draft for draft in drafts if not isinstance(draft, UsageDraft)]
    assert drafts.index(usage[0]) == 4, "the usage follows the part that it belongs to"
    assert all(part.timestamp is not None and part.duration_ms is not None for part in parts)
    seen = [
        attrs.asdict(attrs.evolve(part, timestamp=None, duration_ms=None), filter=lambda _a, value: value is not None)
        for part in parts
    ]
    tool = {"role": "assistant", "may_change_files": True}
    said = {"role": "assistant", "may_change_files": False}
    long = "long " * 2000
    assert seen == [
        {
            **said,
            "part_type": "reasoning",
            "item_type": "reasoning",
            "content": "think",
            "summary": "think",
            "call_id": f"{session_id}-1",
        },
        {
            **said,
            "part_type": "text",
            "item_type": "message",
            "content": long,
            "summary": long[:159] + "…",
            "call_id": f"{session_id}-2",
        },
        {
            **tool,
            "part_type": "tool",
            "item_type": "command",
            "tool_name": "shell",
            "tool_status": "failed",
            "tool_exit_code": 3,
            "tool_input": '{"command": "echo out; echo err >&2; exit 3", "timeout_s": 20}',
            "tool_output": "out\nerr\n",
            "summary": "$ echo out; echo err >&2; exit 3 (failed)",
            "call_id": f"{session_id}-3",
        },
        {
            **tool,
            "part_type": "patch",
            "item_type": "file_write",
            "tool_name": "write",
            "tool_status": "completed",
            "tool_input": '{"path": "a/b.txt"}',
            "content": "write a/b.txt (4 bytes)",
            "summary": "write a/b.txt (4 bytes)",
            "call_id": f"{session_id}-4",
        },
        {
            **tool,
            "part_type": "patch",
            "item_type": "file_patch",
            "tool_name": "apply_patch",
            "tool_status": "completed",
            "tool_input": json.dumps({"patch": diff}),
            "content": "patch a/b.txt",
            "summary": "patch a/b.txt",
            "call_id": f"{session_id}-6",
        },
        {
            **tool,
            "part_type": "tool",
            "item_type": "tool_call",
            "tool_name": "run_tests",
            "tool_status": "completed",
            "tool_input": '{"path": "suite/one"}',
            "tool_output": "tested 'suite/one'",
            "summary": "run_tests suite/one",
            "call_id": f"{session_id}-7",
        },
        {
            **tool,
            "part_type": "tool",
            "item_type": "tool_call",
            "tool_name": "run_tests",
            "tool_status": "failed",
            "tool_input": '{"path": "bad"}',
            "tool_output": "tested 'bad'",
            "tool_error": "tested 'bad'",
            "summary": "run_tests bad (failed: tested 'bad')",
            "call_id": f"{session_id}-9",
        },
    ]
    assert await stage.read("a/b.txt") == "two\n"
    assert [call for call, _ in await stage.hook_calls()] == [f"{session_id}-{n}" for n in (3, 4, 6, 7, 9)]
    log = (await stage.sandbox.read_file(f"{stage.sandbox.support_dir}/mcp_log", max_bytes=10000)).decode().split()
    assert log.count("started") == 1, "one server for all calls"
    assert [method for method in log if method != "None"][1:4] == [
        "initialize",
        "notifications/initialized",
        "tools/list",
    ]


@pytest.mark.slow
async def test_the_hook_sees_the_workspace_of_each_of_fifty_writes(stage, play, parts):
    from hashlib import sha256

    raws = await play(*({"write": "f", "content": f"{n}\n"} for n in range(50)))
    calls = await stage.hook_calls()
    assert [state["f"] for _, state in calls] == [sha256(f"{n}\n".encode()).hexdigest() for n in range(50)]
    assert [call for call, _ in calls] == [part.call_id for part in parts(raws)]


async def test_turns_hand_back_and_then_nothing_is_left(stage):
    stage.write_script({"text": "one"}, {"turn": True}, {"text": "two"})
    async with stage.session() as session:
        outputs = [[output async for output in session.turn(prompt)] for prompt in "ab"]
        assert [[output.hands_back for output in turn].index(True) for turn in outputs] == [5, 4]
        first, second = [[json.loads(output.raw)["type"] for output in turn] for turn in outputs]
        assert first[0] == "session.started"
        assert first[1:] == second == [
            "turn.started", "item.started", "item.delta", "item.completed", "turn.completed",
        ]  # fmt: skip
        seen: list[str] = []
        with pytest.raises(AgentError, match="nothing left to play"):
            await collect(session, seen)
        assert [json.loads(raw)["type"] for raw in seen] == ["turn.started", "turn.failed"]


async def test_what_goes_wrong_is_a_failed_part_and_the_script_goes_on(stage, play, parts):
    await stage.sandbox.run(["ln", "-s", "/tmp", "out"], timeout_s=10)
    done = parts(
        await play(
            {"write": "out/x", "content": ""},
            {"patch": "--- a/none\n+++ b/none\n@@ -1 +1 @@\n-a\n+b\n"},
            {"patch": "--- a/.git/config\n+++ b/.git/config\n@@ -0,0 +1 @@\n+b\n"},
            {"run_tests": ""},
            {"run": "echo begun; sleep 600", "timeout_s": 0.3},
            {"run": "yes | head -c 300000"},
            {"run": "kill -9 $$"},
            {"text": "end"},
        )
    )
    assert [part.tool_status for part in done[:5]] == ["failed"] * 5
    assert done[0].tool_error == "out/x is out of the workspace"
    assert "none" in (done[1].tool_error or "")
    assert done[2].tool_error == ".git/config belongs to git"
    assert done[3].tool_error == "no MCP server here offers run_tests"
    assert done[4].tool_output == "begun\n"
    assert done[4].tool_error == "killed after its timeout of 0.3 s"
    assert done[4].tool_exit_code is None
    assert (done[5].tool_output or "").endswith("y\n\n[100000 characters more were cut]")
    assert done[6].tool_exit_code == 137
    assert done[7].content == "end"


async def test_a_server_that_died_is_started_again(stage, play, parts):
    stage.add_mcp()
    done = parts(await play({"run_tests": "die"}, {"run_tests": "x"}))
    assert [(part.tool_status, part.tool_error) for part in done] == [
        ("failed", "the MCP server ended"),
        ("completed", None),
    ]


async def test_what_a_command_leaves_running_ends_with_it(stage, play, parts):
    still_there = "kill -0 $(cat pid) 2>/dev/null && echo yes || echo no"
    done = parts(await play({"run": "sleep 987001 & echo $! >pid; echo ok"}, {"run": still_there}))
    assert [part.tool_output for part in done] == ["ok\n", "no\n"]


async def test_a_patch_leaves_the_workspaces_own_repository_alone(stage, play, parts):
    run = stage.sandbox.run
    await run(["sh", "-c", "git init -q . && echo one >f && touch .git/index.lock"], timeout_s=10)
    before = (await run(["sh", "-c", "find .git -type f | sort | xargs sha256sum"], timeout_s=10)).stdout
    done = parts(await play({"patch": "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-one\n+two\n"}))
    assert done[0].tool_status == "completed"
    assert await stage.read("f") == "two\n"
    assert (await run(["sh", "-c", "find .git -type f | sort | xargs sha256sum"], timeout_s=10)).stdout == before
