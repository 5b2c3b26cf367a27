"""The harness, nothing faked: real sandboxes, the envoi runtime, an MCP client through bridge and relay."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import attrs
import pytest

from envoi_trace_core.builtin.local_sandbox import isolation
from envoi_trace_core.builtin.local_sandbox.factory import create
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.domain.facts import CallRecorded
from envoi_trace_core.domain.parts import EnvoiCall, Evaluation
from envoi_trace_core.domain.solving import is_solved
from envoi_trace_core.errors import HarnessError, SandboxError
from envoi_trace_core.harness.evaluator import open_evaluator
from envoi_trace_core.harness.gate import TestGate
from envoi_trace_core.harness.relay import Relay, open_relay
from envoi_trace_core.harness.runtime import EnvoiRuntime
from envoi_trace_core.harness.tool import RunTestsTool, open_run_tests_tool
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.sandboxing.bootstrap import harness_python
from envoi_trace_core.specs import SandboxRequest

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]

MAIN = """
import asyncio
import envoi

basics = envoi.suite("basics")
secret = envoi.suite("secret")

@envoi.setup
async def build(submission: envoi.Documents):
    built = await envoi.run("sh build.sh")
    if built.exit_code:
        raise RuntimeError(built.stdout + built.stderr)

@basics.test()
async def first():
    out = await envoi.run("sh program.sh")
    passed = int(out.stdout == "one")
    return {"passed": passed, "failed": 1 - passed, "total": 1, "got": out.stdout}

@basics.test()
async def second():
    folder = envoi.session_path()
    while (folder / "wait").exists():
        await asyncio.sleep(0.1)
    return {"passed": 2, "failed": 0, "total": 2}

@secret.test()
async def hidden_one():
    out = await envoi.run("sh program.sh")
    assert out.stdout == "one", "the hidden truth"
    return {"passed": 1, "failed": 0, "total": 1}

@basics.test("huge")
async def huge():
    if (envoi.session_path() / "huge").exists():
        return {"passed": 0, "failed": 1, "total": 1, "output": "x" * 3_000_000}
    return {"passed": 1, "failed": 0, "total": 1}

@envoi.suite("numbered").test("{number}")
async def numbered(number: int):
    return {"passed": 1, "failed": 0, "total": 1}
"""

HANDSHAKE_AND_CALL: list[dict[str, Any]] = [
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "run_tests", "arguments": {}}},
]

GOOD = {"build.sh": "true", "program.sh": "printf one"}
VISIBLE = ("basics/first", "basics/huge", "basics/second")


def environment(tmp_path: Path, main: str = MAIN, setup: str | None = None) -> Any:
    directory = tmp_path / "environment"
    directory.mkdir()
    (directory / "main.py").write_text(main)
    if setup is not None:
        (directory / "setup.sh").write_text(setup)
    return SimpleNamespace(
        directory=directory,
        main=directory / "main.py",
        setup_sh=directory / "setup.sh" if setup is not None else None,
        dockerfile=None,
        hidden=(),
        content_hash="hash",
    )


@asynccontextmanager
async def local_sandbox(tmp_path: Path, name: str) -> AsyncIterator[Sandbox]:
    role: Any = name
    request = SandboxRequest(name=name, trajectory_id="test", role=role, lifetime_s=600, runs_model=False)
    sandbox = await create(request, LocalSandboxOptions(isolation="none", root=str(tmp_path / "sandboxes")))
    try:
        yield sandbox
    finally:
        await sandbox.close()


class WithoutPython:
    """A sandbox that offers no Python of its own, as a cloud's image does."""

    python = None

    def __init__(self, sandbox: Sandbox) -> None:
        self.support_dir = sandbox.support_dir
        self.run = sandbox.run


@attrs.define
class Commits:
    """Commits as folders' contents: what the repository does for the harness."""

    files: dict[str, dict[str, str]]
    current: str = ""

    async def checkpoint(self) -> str:
        return self.current

    async def export(self, commit: str, path: Path) -> None:
        for name, content in self.files[commit].items():
            (path / name).write_text(content)

    async def tree_of(self, commit: str) -> str:
        return repr(sorted(self.files[commit].items()))


@attrs.define
class Harness:
    sandbox: Sandbox
    evaluation: Sandbox
    runtime: EnvoiRuntime
    relay: Relay
    tool: RunTestsTool
    commits: Commits
    calls: list[EnvoiCall]
    answered: list[CallRecorded]
    failures: list[Exception]
    open_tool: Callable[..., Any]


@asynccontextmanager
async def harness(tmp_path: Path, files: dict[str, str], **options: Any) -> AsyncIterator[Harness]:
    commits = Commits({"c1": files}, current="c1")
    calls: list[EnvoiCall] = []
    failures: list[Exception] = []

    answered: list[CallRecorded] = []

    async def on_call(ended: CallRecorded) -> None:
        answered.append(ended)
        calls.append(ended.call)

    async with AsyncExitStack() as stack:
        evaluation = await stack.enter_async_context(local_sandbox(tmp_path, "evaluation"))
        sandbox = await stack.enter_async_context(local_sandbox(tmp_path, "agent"))
        runtime = EnvoiRuntime(sandbox=evaluation, environment=environment(tmp_path))
        await stack.enter_async_context(runtime)
        gate = TestGate(2)

        def open_tool(relay: Relay, **more: Any) -> Any:
            return open_run_tests_tool(
                runtime=runtime,
                relay=relay,
                gate=gate,
                checkpoint=commits.checkpoint,
                export=commits.export,
                on_call=on_call,
                on_failure=failures.append,
                **{"hidden": ("secret/*",), "timeout_s": 60.0, **options, **more},
            )

        relay = await stack.enter_async_context(open_relay(sandbox))
        tool = await stack.enter_async_context(open_tool(relay))
        yield Harness(sandbox, evaluation, runtime, relay, tool, commits, calls, answered, failures, open_tool)


@asynccontextmanager
async def mcp_session(tool: RunTestsTool) -> AsyncIterator[Any]:
    from mcp.client.session import ClientSession
    from mcp.client.stdio import StdioServerParameters, stdio_client

    program, *arguments = tool.mcp_server().command
    parameters = StdioServerParameters(command=program, args=arguments)
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


def text_of(result: Any) -> str:
    (content,) = result.content
    assert isinstance(content.text, str)
    return content.text


async def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    with anyio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - other processes
            await anyio.sleep(0.02)


def processes(sandbox: Sandbox, pattern: str) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if pattern in line and sandbox.support_dir in line:
                pids.append(int(entry.name))
    return pids


async def test_agent_sees_counts_details_and_nothing_hidden(tmp_path: Path) -> None:
    async with harness(tmp_path, {**GOOD, "program.sh": "printf two"}) as it, mcp_session(it.tool) as session:
        (tool,) = (await session.list_tools()).tools
        assert tool.name == "run_tests"
        all_text = text_of(await session.call_tool("run_tests", {}))
        suite_text = text_of(await session.call_tool("run_tests", {"path": "basics"}))
        leaf_text = text_of(await session.call_tool("run_tests", {"path": "basics/second"}))
        unknown = await session.call_tool("run_tests", {"path": "nope"})
        concealed = await session.call_tool("run_tests", {"path": "secret/hidden_one"})
    assert all_text.startswith("3 of 4 passed.")
    assert "FAILED basics/first" in all_text
    assert '"got": "two"' in all_text
    assert suite_text == all_text
    assert leaf_text == "2 of 2 passed."
    for text in (all_text, suite_text, text_of(unknown)):
        assert "secret" not in text
        assert "truth" not in text
    assert unknown.is_error
    assert "Known: basics." in text_of(unknown)
    assert text_of(concealed) == text_of(unknown).replace("nope", "secret/hidden_one")
    first, *_, last = it.calls
    assert [call.status_code for call in it.calls] == [200, 200, 200, 404, 404]
    assert (first.counts.passed, first.counts.failed, first.counts.total) == (3, 1, 4)
    assert tuple(result.path for result in first.results) == VISIBLE
    assert last.counts.total == 0
    assert len({call.call_id for call in it.calls}) == 5
    assert it.failures == []


async def test_failed_build_shows_its_text_and_fails_nothing_else(tmp_path: Path) -> None:
    files = {**GOOD, "build.sh": "echo 'line 7: no such type'; exit 3"}
    async with harness(tmp_path, files) as it, mcp_session(it.tool) as session:
        result = await session.call_tool("run_tests", {})
        assert "line 7: no such type" in text_of(result)
        assert not result.is_error
    assert it.calls[0].status_code == 422
    assert it.failures == []


async def test_huge_result_is_bounded(tmp_path: Path) -> None:
    async with harness(tmp_path, {**GOOD, "huge": ""}) as it, mcp_session(it.tool) as session:
        text = text_of(await session.call_tool("run_tests", {}))
    assert len(text) < 10_000
    assert "characters left out" in text
    assert it.calls[0].counts.failed == 1


async def test_tests_that_hang_fail_and_are_no_fault_of_the_harness(tmp_path: Path) -> None:
    async with harness(tmp_path, {**GOOD, "wait": ""}, timeout_s=15.0) as it, mcp_session(it.tool) as session:
        text = text_of(await session.call_tool("run_tests", {"path": "basics/second"}))
    assert "did not end within 15 s" in text
    assert it.calls[0].status_code == 200
    assert it.failures == []


async def test_two_calls_at_once_are_both_answered(tmp_path: Path) -> None:
    texts: list[str] = []
    async with harness(tmp_path, GOOD) as it, mcp_session(it.tool) as session:

        async def call(path: str) -> None:
            texts.append(text_of(await session.call_tool("run_tests", {"path": path})))

        async with anyio.create_task_group() as group:
            group.start_soon(call, "basics/first")
            group.start_soon(call, "basics/second")
    assert sorted(texts) == ["1 of 1 passed.", "2 of 2 passed."]


async def test_killed_relay_in_the_middle_of_a_call(tmp_path: Path) -> None:
    async with harness(tmp_path, GOOD) as it, mcp_session(it.tool) as session:
        texts: list[str] = []

        async def call() -> None:
            texts.append(text_of(await session.call_tool("run_tests", {})))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await until(lambda: it.tool.calls_in_flight == 1)
            (pid,) = processes(it.sandbox, "relay_agent.pyz")
            os.kill(pid, signal.SIGKILL)
        assert texts == ["4 of 4 passed."]
        assert it.relay.connections == 2
        assert len(it.calls) == 1


async def test_restarted_orchestrator_answers_the_call_in_flight_once_and_in_full(tmp_path: Path) -> None:
    files = {**GOOD, "program.sh": "printf two"}  # what it printed is a detail: in the answer, in no result
    async with harness(tmp_path, files) as it, anyio.create_task_group() as group:
        texts: list[str] = []
        done = anyio.Event()

        async def record_and_never_return(ended: CallRecorded) -> None:
            it.calls.append(ended.call)
            it.answered.append(ended)
            await anyio.sleep_forever()

        async def agent(tool: RunTestsTool) -> None:
            async with mcp_session(tool) as session:
                texts.append(text_of(await session.call_tool("run_tests", {})))
                texts.append(text_of(await session.call_tool("run_tests", {"path": "basics/second"})))
            done.set()

        # The first orchestrator records the call, and dies before the agent has its answer.
        async with open_relay(it.sandbox) as relay, it.open_tool(relay) as tool:
            tool.on_call = record_and_never_return
            group.start_soon(agent, tool)
            await until(lambda: len(it.calls) == 1)
        assert texts == []
        async with open_relay(it.sandbox) as relay, it.open_tool(relay, known=it.answered[:]):
            with anyio.fail_after(60):
                await done.wait()
        assert texts[0].startswith("3 of 4 passed.")
        assert '"got": "two"' in texts[0]
        assert texts[1] == "2 of 2 passed."
        assert [call.path for call in it.calls] == ["", "basics/second"]


async def test_killed_runtime_comes_back(tmp_path: Path) -> None:
    async with harness(tmp_path, GOOD) as it, mcp_session(it.tool) as session:
        for pid in processes(it.evaluation, "envoi.runtime"):
            os.kill(pid, signal.SIGKILL)
        assert text_of(await session.call_tool("run_tests", {})) == "4 of 4 passed."
        assert it.runtime.restarts == 1
        texts: list[str] = []

        async def call() -> None:
            texts.append(text_of(await session.call_tool("run_tests", {})))

        async with anyio.create_task_group() as group:
            group.start_soon(call)

            await until(lambda: bool(processes(it.evaluation, "envoi.backend_local")))
            for pid in processes(it.evaluation, "envoi.runtime"):
                os.kill(pid, signal.SIGKILL)
        assert texts == ["4 of 4 passed."]
        assert it.failures == []


async def test_evaluations_newest_first_and_equal_trees_once(tmp_path: Path) -> None:
    evaluations: list[Evaluation] = []

    async def on_evaluation(evaluation: Evaluation) -> None:
        evaluations.append(evaluation)

    async with harness(tmp_path, GOOD) as it:
        bad = {**GOOD, "program.sh": "printf two"}
        it.commits.files = {"c1": bad, "c2": GOOD, "c3": bad, "c4": GOOD}
        runs: list[Path] = []
        real_test = it.runtime.test

        async def counted(tree: Path, *args: Any, **kwargs: Any) -> Any:
            runs.append(tree)
            return await real_test(tree, *args, **kwargs)

        it.runtime = SimpleNamespace(test=counted, schema=it.runtime.schema)  # type: ignore[assignment]
        async with open_evaluator(
            runtime=it.runtime,
            gate=TestGate(1),
            export=it.commits.export,
            tree_of=it.commits.tree_of,
            on_evaluation=on_evaluation,
        ) as evaluator:
            for commit in ("c1", "c2", "c3", "c4"):
                evaluator.submit(commit)
            newest = await evaluator.wait_for("c4")
            assert newest is not None
            assert is_solved(newest.results, it.runtime.schema.test_paths)
            assert evaluations[0].commit == "c4"
            await evaluator.drain(60)
        assert len(runs) == 2
    assert {evaluation.commit for evaluation in evaluations} == {"c1", "c2", "c3", "c4"}
    by_commit = {evaluation.commit: evaluation for evaluation in evaluations}
    assert by_commit["c2"].counts.passed == 5
    assert not is_solved(by_commit["c1"].results, [result.path for result in by_commit["c1"].results])
    hidden = next(result for result in by_commit["c3"].results if result.path == "secret/hidden_one")
    assert hidden.error == "the hidden truth"
    assert not any("numbered" in result.path for result in by_commit["c2"].results)


@pytest.mark.parametrize(
    ("main", "setup", "words"),
    [
        (MAIN, "echo doing; echo 'no such package' >&2; exit 7", ["exit code 7", "no such package"]),
        ("raise ValueError('main is wrong')", None, ["main is wrong", "did not come up"]),
        ("import envoi", None, ["no test"]),
    ],
)
async def test_environment_that_fails_says_why(tmp_path: Path, main: str, setup: str | None, words: list[str]) -> None:
    async with local_sandbox(tmp_path, "evaluation") as sandbox:
        runtime = EnvoiRuntime(sandbox=sandbox, environment=environment(tmp_path, main, setup))
        with pytest.raises(HarnessError) as raised:
            await runtime.__aenter__()
        assert processes(sandbox, "envoi.runtime") == []
    for word in words:
        assert word in raised.value.message


async def test_setup_that_hangs_is_ended_and_quoted(tmp_path: Path) -> None:
    async with local_sandbox(tmp_path, "evaluation") as sandbox:
        it = environment(tmp_path, MAIN, "echo fetching; sleep 60")
        with pytest.raises(HarnessError, match=r"within 1 s:\nfetching"):
            await EnvoiRuntime(sandbox=sandbox, environment=it, setup_timeout_s=1).__aenter__()


async def test_setup_installs_for_the_tests_and_runs_once(tmp_path: Path) -> None:
    """What setup.sh puts beside the harness's packages, main.py imports."""
    main = "import added\n" + MAIN
    setup = (
        "echo ran >>../count\n"
        "site=$(python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')\n"
        'echo "value = 1" >"$site/added.py"\n'
    )
    async with local_sandbox(tmp_path, "evaluation") as sandbox:
        it = environment(tmp_path, main, setup)
        (tmp_path / "tree").mkdir()
        for name, content in GOOD.items():
            (tmp_path / "tree" / name).write_text(content)
        for _ in range(2):
            async with EnvoiRuntime(sandbox=sandbox, environment=it) as runtime:
                run = await runtime.test(tmp_path / "tree", timeout_s=60)
                assert run.counts.all_passed
        count = await sandbox.read_file(f"{sandbox.support_dir}/harness/count", max_bytes=100)
        assert count == b"ran\n"


async def test_isolated_without_network_and_in_one_shared_sandbox(tmp_path: Path) -> None:
    if isolation.bubblewrap() is None:
        pytest.skip("bubblewrap does not work here")
    request = SandboxRequest(name="shared", trajectory_id="test", role="agent", lifetime_s=600, runs_model=True)
    options = LocalSandboxOptions(isolation="bwrap", network="off", root=str(tmp_path / "sandboxes"))
    sandbox = await create(request, options)
    try:
        commits = Commits({"c1": GOOD}, current="c1")
        calls: list[EnvoiCall] = []

        async def on_call(ended: CallRecorded) -> None:
            calls.append(ended.call)

        async with (
            EnvoiRuntime(sandbox=sandbox, environment=environment(tmp_path)) as runtime,
            open_relay(sandbox) as relay,
            open_run_tests_tool(
                runtime=runtime,
                relay=relay,
                gate=TestGate(1),
                checkpoint=commits.checkpoint,
                export=commits.export,
                on_call=on_call,
                on_failure=lambda error: pytest.fail(error.message),
            ) as tool,
            sandbox.stream(tool.mcp_server().command) as agent,
        ):
            await agent.write(b"".join(json.dumps(message).encode() + b"\n" for message in HANDSHAKE_AND_CALL))
            said = b""
            with anyio.fail_after(60):
                while b'"id":2' not in said:
                    said += await agent.read()
        assert b"5 of 5 passed." in said
        assert calls[0].counts.passed == 5
    finally:
        await sandbox.close()


async def test_python_with_envoi_is_made_where_there_is_none(tmp_path: Path) -> None:
    lines: list[str] = []
    async with local_sandbox(tmp_path, "evaluation") as sandbox:
        bare = WithoutPython(sandbox)
        try:
            python = await harness_python(bare, report=lines.append)  # type: ignore[arg-type]
        except SandboxError as error:
            assert "uv" in error.message  # noqa: PT017
            pytest.skip(f"no package index from here: {error.message}")
        result = await sandbox.run([python, "-c", "import envoi.runtime"], timeout_s=60)
        assert result.exit_code == 0
        again = await harness_python(bare, report=lines.append)  # type: ignore[arg-type]
    assert again == python
    assert len(lines) <= 1
