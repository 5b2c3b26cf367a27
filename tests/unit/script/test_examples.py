"""The examples for real: their tests in the envoi runtime, their script played in a sandbox."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket

import anyio
import envoi
import httpx
import pytest

from envoi_trace_core.builtin.script.actions import MAKES_PART, load_script
from envoi_trace_core.domain.drafts import PartDraft

EXAMPLES = Path(__file__).parents[3] / "examples"
pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@asynccontextmanager
async def runtime(name: str, tmp_path: Path) -> AsyncIterator[str]:
    """The environment's server on a port that the system chose."""
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    main = EXAMPLES / "environments" / name / "main.py"
    argv = [sys.executable, "-m", "envoi.runtime", "--file", str(main), "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = await anyio.open_process(argv, stdin=None, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient() as client:
                with anyio.fail_after(30):
                    while not await _answers(client, url):  # noqa: ASYNC110  # a server tells nobody that it is up
                        await anyio.sleep(0.05)
            yield url
        finally:
            process.terminate()
            with anyio.move_on_after(10, shield=True):
                await process.wait()


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/schema")).status_code == 200
    except httpx.TransportError:
        return False


async def run_in_session(url: str, folder: Path, path: str) -> object:
    async with await envoi.connect_session(url, submission=envoi.Documents(folder)) as session:
        return await session.test(path)


async def test_hello(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "other.txt").write_text("x")
    async with runtime("hello", tmp_path) as url, await envoi.connect(url) as client:
        documents = envoi.Documents(work)
        assert await client.test("greets", submission=documents) == {"passed": 0, "failed": 1, "total": 1}
        (work / "greeting.txt").write_text("Hello!")
        assert await client.test("greets", submission=documents) == {"passed": 1, "failed": 0, "total": 1}


async def test_the_merge_sort_script_goes_from_wrong_to_solved(tmp_path, stage, drafts_of):
    """Plays both turns, and tests the workspace as each `run_tests` would have."""
    stage.task_dir = EXAMPLES / "tasks" / "merge_sort"
    stage.add_mcp()
    actions = load_script(stage.task_dir / "script.jsonl")
    raws: list[str] = []
    programs: list[bytes] = []
    async with stage.session() as session:
        for _ in range(2):
            raws += [output.raw async for output in session.turn("go")]
            program = await stage.sandbox.read_file(f"{stage.sandbox.workspace}/merge_sort.py", max_bytes=10**6)
            programs.append(program)
    parts = [draft for draft in drafts_of(raws) if isinstance(draft, PartDraft)]
    assert len(parts) == sum(not action.keys().isdisjoint(MAKES_PART) for action in actions)
    assert {part.part_type for part in parts} == {"reasoning", "text", "tool", "patch"}
    assert all(part.tool_status in (None, "completed") for part in parts)
    first = next(action["content"] for action in actions if "write" in action)
    work = tmp_path / "work"
    work.mkdir()
    passed = []
    async with runtime("merge_sort", tmp_path) as url:
        for program in (first.encode(), *programs):
            (work / "merge_sort.py").write_bytes(program)
            results = await run_in_session(url, work, "")
            passed.append({path: result["passed"] for path, result in results.items()})
        (work / "merge_sort.py").write_text("import time; time.sleep(600)")
        with anyio.fail_after(30):
            hanging = await run_in_session(url, work, "basics/few_numbers")
        assert hanging["reason"] == "no result within 5 s"
        (work / "merge_sort.py").write_text("def x(:")
        with pytest.raises(RuntimeError, match=r"merge_sort\.py does not compile"):
            await run_in_session(url, work, "")
        (work / "merge_sort.py").rename(work / "other.py")
        with pytest.raises(RuntimeError, match=r"there is no merge_sort\.py"):
            await run_in_session(url, work, "")
    wrong, better, right = passed
    assert sum(wrong.values()) < sum(better.values()) < sum(right.values()) == len(right) == 9
    assert len({path.split("/")[0] for path in right}) == 3
