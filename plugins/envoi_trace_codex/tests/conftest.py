"""A scripted model, a local sandbox, and Codex in it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from envoi_trace_core.builtin.local_sandbox.factory import create
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.specs import McpServer, SandboxRequest

sys.path.insert(0, str(Path(__file__).parent))  # for codex_harness: test folders are no packages

from codex_harness import CANARY, MCP_SERVER, Codex
from codex_scripted_model import ScriptedModel
from envoi_trace_codex.options import CodexOptions


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="write the golden files of the Codex parsers again")
    parser.addoption("--codex-version", default="", help="drive that Codex instead of the one that is installed")


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as scripted:
        yield scripted


@pytest.fixture
async def make_sandbox(tmp_path: Path) -> AsyncIterator[Callable[[str], object]]:
    made: list[Sandbox] = []

    async def make(name: str) -> Sandbox:
        request = SandboxRequest(
            name=f"codex-test-{name}", trajectory_id="t", role="agent", lifetime_s=300, runs_model=False
        )
        sandbox = await create(request, LocalSandboxOptions(root=str(tmp_path / "sandboxes")))
        made.append(sandbox)
        return sandbox

    yield make
    for sandbox in made:
        await sandbox.close()


@pytest.fixture
async def sandbox(make_sandbox) -> Sandbox:
    return await make_sandbox("one")


@pytest.fixture
async def mcp_server(sandbox: Sandbox) -> McpServer:
    path = f"{sandbox.support_dir}/mcp_server.py"
    await sandbox.write_file(path, MCP_SERVER.encode())
    assert sandbox.python is not None
    return McpServer(name="tests", command=(sandbox.python, path), tool_timeout_s=60)


@pytest.fixture
def codex(
    sandbox: Sandbox,
    model: ScriptedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Codex:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODEX_API_KEY", CANARY)
    version = request.config.getoption("--codex-version")
    options = CodexOptions(base_url=model.base_url, request_retries=1, stream_retries=1, version=version)
    return Codex(sandbox, model, tmp_path, options)
