"""A scripted model, a local sandbox, and OpenCode in it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from envoi_trace_core.builtin.local_sandbox.factory import create
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.specs import McpServer, SandboxRequest

sys.path.insert(0, str(Path(__file__).parent))  # for opencode_harness: test folders are no packages

from envoi_trace_opencode.options import OpenCodeOptions
from opencode_harness import CANARY, MCP_SERVER, OpenCode, install_opencode
from opencode_scripted_model import ScriptedModel


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-opencode-goldens", action="store_true", help="write the golden files of the OpenCode parser again"
    )


@pytest.fixture(scope="session")
def opencode_package() -> Path:
    return install_opencode()


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel() as scripted:
        yield scripted


@pytest.fixture
async def make_sandbox(tmp_path: Path, opencode_package: Path) -> AsyncIterator[Callable[[str], object]]:
    made: list[Sandbox] = []

    async def make(name: str) -> Sandbox:
        request = SandboxRequest(
            name=f"opencode-test-{name}", trajectory_id="t", role="agent", lifetime_s=300, runs_model=False
        )
        options = LocalSandboxOptions(root=str(tmp_path / "sandboxes"), read=str(opencode_package))
        sandbox = await create(request, options)
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
    return McpServer(name="envoi", command=(sandbox.python, path), tool_timeout_s=60)


@pytest.fixture
def opencode(sandbox: Sandbox, model: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenCode:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("ACME_API_KEY", CANARY)
    return OpenCode(sandbox, model, tmp_path, OpenCodeOptions(base_url=model.base_url))
