"""Interrupts and deaths: nothing keeps running, nothing is played twice, nothing is missing."""

from __future__ import annotations

import json
import sys

import anyio
import attrs
import pytest

from envoi_trace_core.domain.drafts import PartDraft, UnparsedEvent
from envoi_trace_core.errors import AgentError
from envoi_trace_core.protocols import AgentSession, ResumeState
from envoi_trace_core.sandboxing.detached import DetachedProcess

pytestmark = pytest.mark.anyio


def kind(raw: str) -> str:
    return str(json.loads(raw)["type"])


async def read_turn(session: AgentSession, prompt: str | None, into: list, until: str | None = None) -> None:
    """Read a turn, or its beginning up to an event with that text in it, as a dying orchestrator would."""
    stream = session.turn(prompt)
    async for output in stream:
        into.append(output)
        if until is not None and until in output.raw:
            break
    await stream.aclose()


async def crash(stage, prompt: str | None, until: str, resume: ResumeState | None = None):
    """Read until an event and leave the session as it is, as if the orchestrator were killed; its player lives on."""
    context = stage.session(resume)
    stage.forgotten.append(context)
    session = await context.__aenter__()
    seen: list = []
    await read_turn(session, prompt, seen, until)
    state = ResumeState(
        session_id=session.session_id,
        position=seen[-1].position,
        turn_in_flight=True,
        archive=await session.save_state(),
        same_sandbox=True,
    )
    return context, seen, state


async def player_pid(stage) -> int:
    """Of the newest player: the child of its wrapper; its guard, which has the same command line, is its own child."""
    script = """
import glob, sys
wrappers = {open(path).read().strip() for path in glob.glob(sys.argv[1] + "/*/pid")}
for path in glob.glob("/proc/[0-9]*"):
    try:
        parent = open(path + "/stat").read().rpartition(")")[2].split()[1]
        if parent in wrappers and "player.pyz" in open(path + "/cmdline").read():
            print(path.rpartition("/")[2])
    except OSError:
        pass
"""
    processes = f"{stage.sandbox.support_dir}/processes"
    found = await stage.sandbox.run([sys.executable, "-c", script, processes], timeout_s=10)
    return max(int(pid) for pid in found.stdout.split())


async def until_gone(stage, mark: str) -> None:
    with anyio.fail_after(10):
        while await stage.processes(mark):  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def interrupted_turn(session: AgentSession, when: str) -> list[str]:
    """Play a turn, and interrupt it at the first event with that text in it."""
    raws: list[str] = []
    asked = False
    async with anyio.create_task_group() as group:
        async for output in session.turn("go"):
            raws.append(output.raw)
            if when in output.raw and not asked:
                asked = True
                group.start_soon(session.interrupt)
    assert asked
    return raws


async def test_an_interrupt_ends_the_command_with_all_its_processes(stage, parts):
    stage.write_script({"run": "(sleep 987002 & sleep 987002) & echo begun; wait"}, {"text": "after"})
    async with stage.session() as session:
        with anyio.fail_after(5):
            raws = await interrupted_turn(session, "begun\\n")
        assert kind(raws[-1]) == "turn.interrupted"
        assert await stage.processes("987002") == 0
        [part] = parts(raws)
        assert (part.tool_status, part.tool_output) == ("interrupted", "begun\n")
        assert len(await stage.hook_calls()) == 1, "what an interrupted command changed is recorded too"
        await session.interrupt()  # there is no turn: nothing happens
        assert [part.content for part in parts([output.raw async for output in session.turn("b")])] == ["after"]


@pytest.mark.parametrize("action", [{"sleep": 600}, {"run_tests": "x"}])
async def test_an_interrupt_ends_every_kind_of_waiting(stage, action):
    stage.add_mcp("silent")
    stage.write_script({"text": "begun"}, action, {"text": "after"})
    async with stage.session() as session:
        with anyio.fail_after(5):
            raws = await interrupted_turn(session, '"status": "completed"')
        assert kind(raws[-1]) == "turn.interrupted"
        assert "after" in "".join([output.raw async for output in session.turn("b")])


async def test_a_player_that_does_not_answer_is_killed(stage, parts, monkeypatch):
    monkeypatch.setattr("envoi_trace_core.builtin.script.session.INTERRUPT_TIMEOUT_S", 0.3)
    stage.write_script({"run": "[ -e f ] || { touch f; echo begun; sleep 987006; }"}, {"text": "after"})
    async with stage.session() as session:
        raws: list[str] = []
        async with anyio.create_task_group() as group:
            async for output in session.turn("a"):
                raws.append(output.raw)
                if "begun\\n" in output.raw and kind(output.raw) == "item.delta":
                    await stage.sandbox.run(["kill", "-STOP", str(await player_pid(stage))], timeout_s=10)
                    group.start_soon(session.interrupt)
        await until_gone(stage, "987006")
        again = parts([*raws, *[output.raw async for output in session.turn("b")]])
        assert again[-1].content == "after"


async def test_leaving_the_session_in_the_middle_of_a_command_leaves_no_process(stage):
    stage.write_script({"run": "echo begun; sleep 987003"})
    async with stage.session() as session:
        await read_turn(session, "a", [], "begun\\n")
        assert await stage.processes("987003") > 0
    assert await stage.processes("987003") == 0
    assert await stage.processes("player.pyz") == 0


async def test_a_killed_player_takes_its_command_with_it(stage):
    stage.write_script({"run": "echo begun; sleep 987004"})

    async def kill_when_begun(session: AgentSession) -> None:
        async for output in session.turn("a"):
            if "begun\\n" in output.raw and kind(output.raw) == "item.delta":
                await stage.sandbox.run(["kill", "-9", str(await player_pid(stage))], timeout_s=10)

    async with stage.session() as session:
        with pytest.raises(AgentError, match="died with status 137"):
            await kill_when_begun(session)
        await until_gone(stage, "987004")


async def test_fail_is_an_agent_error_in_its_own_words_and_once_is_only_once(stage, parts):
    stage.write_script({"text": "one"}, {"fail": "the model is gone", "once": True}, {"text": "two"})
    raws: list[str] = []
    async with stage.session() as session:
        seen: list = []
        with pytest.raises(AgentError, match=r"died with status 1: the model is gone$"):
            await read_turn(session, "a", seen)
        raws += [output.raw for output in seen]
        resume = ResumeState(
            session_id=session.session_id,
            position=seen[-1].position,
            turn_in_flight=True,
            archive=await session.save_state(),
            same_sandbox=True,
        )
    async with stage.session(resume) as session:
        assert session.turn_in_flight
        raws += [output.raw async for output in session.turn(None)]
    assert [part.content for part in parts(raws)] == ["one", "two"]


async def test_fail_without_once_fails_again(stage):
    stage.write_script({"text": "one"}, {"fail": "never"})
    async with stage.session() as session:
        for _ in range(2):
            with pytest.raises(AgentError, match="never"):
                await read_turn(session, "a", [])


@pytest.mark.slow
async def test_a_player_killed_at_any_moment_goes_on_with_nothing_twice(stage, drafts_of):
    """Ten times: kill -9 in the middle of the turn, and start again in the same session."""
    stage.write_script(*({"run": f"echo {n} >>log"} for n in range(60)))
    raws: list[str] = []
    resume = None
    for _ in range(10):
        context, seen, resume = await crash(stage, None if resume else "go", "item.completed", resume)
        raws += [output.raw for output in seen]
        await stage.sandbox.run(["kill", "-9", str(await player_pid(stage))], timeout_s=10)
        await context.__aexit__(None, None, None)
    async with stage.session(resume) as session:
        assert session.turn_in_flight
        raws += [output.raw async for output in session.turn(None)]
    drafts = drafts_of(raws)
    assert not [draft for draft in drafts if isinstance(draft, UnparsedEvent)]
    ids = [draft.call_id for draft in drafts if isinstance(draft, PartDraft)]
    assert ids == [f"{resume.session_id}-{n}" for n in range(1, 61)]
    # An action that was killed in its middle is played again: the file may hold a line twice, but misses none.
    assert list(dict.fromkeys((await stage.read("log")).split())) == [str(n) for n in range(60)]


async def test_a_new_orchestrator_reads_on_from_a_living_player(stage, parts):
    stage.write_script({"text": "one"}, {"run": "while [ ! -e go ]; do sleep 0.02; done; echo x >>log"}, {"text": "2"})
    _, seen, resume = await crash(stage, "go", "item.started")
    await stage.sandbox.write_file(f"{stage.sandbox.workspace}/go", b"")
    async with stage.session(resume) as session:
        assert session.turn_in_flight
        rest = [output async for output in session.turn(None)]
    raws = [output.raw for output in [*seen, *rest]]
    assert len(parts(raws)) == 3
    assert [kind(raw) for raw in raws].count("session.started") == 1
    assert await stage.read("log") == "x\n"


async def test_a_turn_that_ended_unseen_is_read_to_its_end(stage):
    stage.write_script({"text": "one"}, {"turn": True}, {"text": "two"})
    _, _, resume = await crash(stage, "go", "session.started")
    process = await DetachedProcess.attach(stage.sandbox, f"{resume.session_id}-1")
    assert process is not None
    async for line in process.lines():
        if b"turn.completed" in line.data:
            break
    async with stage.session(resume) as session:
        assert session.turn_in_flight
        rest = [kind(output.raw) async for output in session.turn(None)]
        assert rest[-1] == "turn.completed"
        assert len([1 async for _ in session.turn("next")]) == 5


async def test_an_orchestrator_that_died_before_its_prompt_left_no_turn(stage, parts):
    """Its player told of its start, unread; nothing would ever end a turn that nobody asked for."""
    stage.write_script({"text": "one"})
    resume = await died_before_the_prompt(stage)
    async with stage.session(resume) as session:
        assert not session.turn_in_flight
        with anyio.fail_after(20):
            assert [part.content for part in parts([output.raw async for output in session.turn("go")])] == ["one"]


@pytest.mark.parametrize("process_number", [1, 2])  # the second goes on with the turn of the first, without a prompt
async def test_an_orchestrator_that_died_before_its_next_prompt_left_no_turn(stage, parts, process_number):
    """The turn before was told to its end, and read."""
    wait = "while [ ! -e go ]; do sleep 0.02; done"
    stage.write_script({"text": "one"}, {"run": wait}, {"turn": True}, {"text": "two"})
    resume = None
    if process_number == 2:
        context, _, resume = await crash(stage, "go", "item.completed")
        await stage.sandbox.run(["kill", "-9", str(await player_pid(stage))], timeout_s=10)
        await context.__aexit__(None, None, None)
    await stage.sandbox.write_file(f"{stage.sandbox.workspace}/go", b"")
    _, _, resume = await crash(stage, None if resume else "go", "turn.completed", resume)
    assert resume.position.startswith(f"{process_number}:")
    async with stage.session(resume) as session:
        assert not session.turn_in_flight
        with anyio.fail_after(20):
            assert [part.content for part in parts([output.raw async for output in session.turn("go")])] == ["two"]


async def test_a_prompt_that_was_not_taken_up_yet_is_not_handed_over_twice(stage, parts):
    stage.write_script({"text": "one"}, {"turn": True}, {"text": "two"})
    resume = await died_before_the_prompt(stage)
    process = await DetachedProcess.attach(stage.sandbox, f"{resume.session_id}-1")
    # Stopped, it is as slow as can be.
    pid = str(await player_pid(stage))
    await stage.sandbox.run(["kill", "-STOP", pid], timeout_s=10)
    await process.write(b'{"type": "prompt", "turn_id": "a", "text": "go"}\n')
    async with stage.session(resume) as session:
        assert session.turn_in_flight
        await stage.sandbox.run(["kill", "-CONT", pid], timeout_s=10)
        with anyio.fail_after(20):
            assert [part.content for part in parts([output.raw async for output in session.turn(None)])] == ["one"]


async def test_a_player_that_died_before_it_took_up_its_prompt_is_handed_it_again(stage, parts):
    stage.write_script({"text": "one"})
    resume = await died_before_the_prompt(stage)
    process = await DetachedProcess.attach(stage.sandbox, f"{resume.session_id}-1")
    pid = str(await player_pid(stage))
    await stage.sandbox.run(["kill", "-STOP", pid], timeout_s=10)
    await process.write(b'{"type": "prompt", "turn_id": "a", "text": "go"}\n')
    async with stage.session(resume) as session:
        assert session.turn_in_flight
        await stage.sandbox.run(["kill", "-9", pid], timeout_s=10)
        with pytest.raises(AgentError, match="died with status 137"), anyio.fail_after(20):
            await read_turn(session, None, [])
    async with stage.session(resume) as session:
        assert not session.turn_in_flight
        with anyio.fail_after(20):
            assert [part.content for part in parts([output.raw async for output in session.turn("go")])] == ["one"]


async def died_before_the_prompt(stage) -> ResumeState:
    """A session whose player was started, and was not prompted."""
    context = stage.session(None)
    stage.forgotten.append(context)
    session = await context.__aenter__()
    process = await session.home.start(f"{session.session_id}-1")
    async for line in process.lines():
        if b"session.started" in line.data:
            break
    return ResumeState(
        session_id=session.session_id, position=None, turn_in_flight=True, archive=None, same_sandbox=True
    )


async def test_a_turn_that_was_given_up_does_not_run_into_the_next(stage, parts):
    stage.write_script({"text": "one"}, {"run": "sleep 987005"}, {"text": "two"})
    _, seen, resume = await crash(stage, "go", "item.completed")
    resume = attrs.evolve(resume, turn_in_flight=False)
    async with stage.session(resume) as session:
        assert not session.turn_in_flight
        rest = [output.raw async for output in session.turn("next")]
    done = parts([*[output.raw for output in seen], *rest])
    assert [part.tool_status or part.content for part in done] == ["one", "interrupted", "two"]


async def test_a_new_sandbox_goes_on_after_the_last_recorded_event(stage, new_stage, parts):
    stage.write_script({"text": "one"}, {"write": "f", "content": "x"}, {"fail": "x", "once": True}, {"text": "two"})
    _, seen, resume = await crash(stage, "go", '"size_bytes"')
    archive = json.dumps({"failed_once": [2], "next_action": 1, "turns": 1}).encode()
    elsewhere = attrs.evolve(resume, archive=archive, same_sandbox=False)
    async with new_stage() as other:
        async with other.session(elsewhere) as session:
            assert session.turn_in_flight
            rest = [output async for output in session.turn(None)]
        assert await other.hook_calls() == [], "the write is not played again"
        done = parts([output.raw for output in [*seen, *rest]])
        assert [part.summary for part in done] == ["one", "write f (1 bytes)", "two"]
        # Again, in that second sandbox, from an event of the first: the process that it began is found.
        again = attrs.evolve(elsewhere, same_sandbox=True)
        async with other.session(again) as session:
            kinds = [kind(output.raw) async for output in session.turn(None)]
        assert kinds == [kind(output.raw) for output in rest]
