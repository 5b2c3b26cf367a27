"""Finding and installing an agent's program, in a real sandbox with a real pip."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from envoi_trace_core.agents.install import AgentProgram, NpmPackage, PipPackage, find_or_install
from envoi_trace_core.builtin.local_sandbox.factory import create
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.errors import AgentError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.specs import SandboxRequest

pytestmark = pytest.mark.anyio

DEMO = AgentProgram(
    program="demo-agent",
    tested_version="1.2.3",
    minimum_version="1.0",
    pip=PipPackage(name="demo-agent-bin", binaries=("demo_agent/bin/demo-agent",)),
)


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    request = SandboxRequest(name="install", trajectory_id="t", role="agent", lifetime_s=120, runs_model=False)
    made = await create(request, LocalSandboxOptions(root=str(tmp_path / "sandboxes")))
    yield made
    await made.close()


async def program(sandbox: Sandbox, path: str, version: str) -> str:
    await sandbox.write_file(path, f"#!/bin/sh\necho demo-agent {version}\n".encode(), mode=0o755)
    return path


def wheel(folder: Path, version: str) -> Path:
    """A wheel of the demo agent."""
    path = folder / f"demo_agent_bin-{version}-py3-none-any.whl"
    info = f"demo_agent_bin-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        script = zipfile.ZipInfo("demo_agent/bin/demo-agent")
        script.external_attr = 0o100755 << 16
        archive.writestr(script, f"#!/bin/sh\necho demo-agent {version}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: demo-agent-bin\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


async def offer(sandbox: Sandbox, tmp_path: Path, version: str) -> AgentProgram:
    """The demo agent, installed by pip from a folder of the sandbox instead of an index."""
    made = wheel(tmp_path, version)
    shelf = f"{sandbox.support_dir}/shelf"
    await sandbox.write_file(f"{shelf}/{made.name}", made.read_bytes())
    home = (await sandbox.run(("sh", "-c", 'printf %s "$HOME"'), timeout_s=10)).stdout.decode()
    config = f"[global]\nno-index = true\nfind-links = {shelf}\nbreak-system-packages = true\n"
    await sandbox.write_file(f"{home}/.config/pip/pip.conf", config.encode())
    return DEMO


async def test_a_program_that_is_there_is_taken(sandbox: Sandbox) -> None:
    reports: list[str] = []
    folder = f"{sandbox.support_dir}/vendor"
    await program(sandbox, f"{folder}/demo-agent", "1.5.0")
    source = attrs.evolve(DEMO, extra_dirs=(folder,))
    found = await find_or_install(sandbox, source, report=reports.append)
    assert (found.path, found.version, found.origin) == (f"{folder}/demo-agent", "1.5.0", "found")
    assert reports == []


async def test_of_several_the_one_that_is_allowed_is_taken(sandbox: Sandbox) -> None:
    folders = [f"{sandbox.support_dir}/{name}" for name in ("old", "broken", "new")]
    for folder, version in zip(folders, ("0.9.0", "?", "1.5.0"), strict=True):
        await program(sandbox, f"{folder}/demo-agent", version)
    source = attrs.evolve(DEMO, extra_dirs=tuple(folders))
    found = await find_or_install(sandbox, source, report=lambda _line: None)
    assert found.version == "1.5.0"


async def test_a_given_binary_is_used_and_nothing_else(sandbox: Sandbox) -> None:
    path = await program(sandbox, f"{sandbox.support_dir}/mine", "2.0.0")
    found = await find_or_install(sandbox, DEMO, binary=path, report=lambda _line: None)
    assert (found.path, found.origin) == (path, "given")
    with pytest.raises(AgentError, match="does not run in the sandbox"):
        await find_or_install(sandbox, DEMO, binary="/no/such/program", report=lambda _line: None)
    with pytest.raises(AgentError, match=r"is version 2\.0\.0, which is not <2"):
        await find_or_install(sandbox, DEMO, binary=path, version="<2", report=lambda _line: None)


@pytest.mark.slow
async def test_it_is_installed_once_with_pip(sandbox: Sandbox, tmp_path: Path) -> None:
    reports: list[str] = []
    source = await offer(sandbox, tmp_path, "1.2.3")
    found = await find_or_install(sandbox, source, report=reports.append)
    assert (found.version, found.origin) == ("1.2.3", "pip")
    assert found.path.startswith(f"{sandbox.support_dir}/agents/")
    again = await find_or_install(sandbox, source, report=reports.append)
    assert (again.path, again.origin) == (found.path, "found")
    assert len(reports) == 1


@pytest.mark.slow
async def test_what_can_not_be_installed_says_why(sandbox: Sandbox, tmp_path: Path) -> None:
    source = await offer(sandbox, tmp_path, "1.2.3")
    npm = NpmPackage(name="@example/no-such-package", binaries=("bin",))
    source = attrs.evolve(source, npm=npm, program="missing-agent")
    with pytest.raises(AgentError) as caught:
        await find_or_install(sandbox, attrs.evolve(source, npm=None), version="9.9.9", report=lambda _line: None)
    assert "missing-agent ==9.9.9 is not in the sandbox" in caught.value.message
    assert "demo-agent-bin" in caught.value.message
    assert caught.value.mend
    left = await sandbox.run(("sh", "-c", f"ls {sandbox.support_dir}/agents | wc -l"), timeout_s=10)
    assert left.stdout.strip() == b"0"
