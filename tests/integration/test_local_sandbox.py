"""What the local sandbox promises beyond the contract, with real bubblewrap and real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path

import anyio
import attrs
import pytest

from envoi_trace_core.builtin.local_sandbox import factory, isolation
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.builtin.local_sandbox.sandbox import LocalSandbox
from envoi_trace_core.errors import SandboxError, SandboxLostError, SandboxTimeoutError, UsageError
from envoi_trace_core.specs import SandboxRequest

pytestmark = pytest.mark.anyio
ISOLATIONS = ["bwrap", "none"]


def request_for(name: str = "box", *, lifetime_s: float = 300, runs_model: bool = True, report=print) -> SandboxRequest:
    return SandboxRequest(
        name=name,
        trajectory_id="t",
        role="agent",
        lifetime_s=lifetime_s,
        runs_model=runs_model,
        report=report,
    )


def options_for(tmp_path: Path, chosen: str = "bwrap", **more: str) -> LocalSandboxOptions:
    return LocalSandboxOptions(isolation=chosen, root=str(tmp_path / "sandboxes"), **more)  # type: ignore[arg-type]


async def sh(sandbox: LocalSandbox, script: str, **env: str) -> str:
    result = await sandbox.run(["sh", "-c", script], timeout_s=30, env=env)
    return result.stdout.decode() + result.stderr.decode()


def processes_with(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    with anyio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - the host changes it
            await anyio.sleep(0.01)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def marker() -> str:
    return f"7{uuid.uuid4().int % 10**11}"


# -- what is visible -------------------------------------------------------------------------------


async def test_the_host_is_neither_seen_nor_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    monkeypatch.chdir(tmp_path)
    home = Path.home()
    sandbox = await factory.create(request_for(), options_for(tmp_path))
    try:
        for path in (secret, tmp_path, tmp_path / "sandboxes", home / ".ssh", home / ".bashrc", "/var", "/srv"):
            assert (await sh(sandbox, f"cat '{path}' 2>&1; ls '{path}' 2>&1")).count("No such file") == 2
        for path in ("/", "/usr", "/etc", "/opt", "/dev", "/run", sys.prefix, sys.base_prefix):
            said = await sh(sandbox, f"touch '{path}/written' && echo WRITTEN")
            assert "WRITTEN" not in said
            assert not (Path(path) / "written").exists()
        for name in ("/workspace", "/home/agent", "/tmp", sandbox.support_dir, "/dev/shm"):
            assert await sh(sandbox, f"touch {name}/written") == ""
        assert "written" not in os.listdir("/tmp")  # noqa: PTH208
        assert (await sh(sandbox, "whoami; id -u; echo $HOME; hostname")).split() == [
            "agent",
            "1000",
            "/home/agent",
            "sandbox",
        ]
    finally:
        await sandbox.close()


async def test_what_only_root_may_touch_stays_so_for_an_orchestrator_that_is_root(tmp_path: Path) -> None:
    sandbox = await factory.create(request_for(), options_for(tmp_path))
    try:
        readable = "find /etc -type f ! -perm -004 -exec head -c 1 {} \\; 2>/dev/null | wc -c"
        assert (await sh(sandbox, readable)).strip() == "0"
        assert "root:" not in await sh(sandbox, "cat /etc/shadow /etc/shadow- /etc/gshadow")
        # Read-only mounts, not file modes: to root of the host the modes say yes.
        assert (await sh(sandbox, "find /proc/sys /proc/bus /proc/irq -writable 2>/dev/null | head -3")) == ""
        said = await sh(sandbox, "cat /proc/sys/kernel/hostname | tee /proc/sys/kernel/hostname >/dev/null")
        assert "Read-only file system" in said
        status = await sh(sandbox, "grep -E '^(CapEff|CapPrm|CapBnd|NoNewPrivs)' /proc/self/status")
        assert status.split()[1::2] == ["0" * 16, "0" * 16, "0" * 16, "1"]
        assert "Permission denied" in await sh(sandbox, "cat /proc/1/environ; cat /proc/1/mem")
        assert await sh(sandbox, "kill -9 1; kill -TERM 1; kill -HUP 1; echo still here") == "still here\n"
        assert (await sh(sandbox, "ls /proc | grep -c '^[0-9]'")).strip() in {"4", "5"}  # not the host's processes
    finally:
        await sandbox.close()


async def test_the_orchestrators_python_runs_inside(tmp_path: Path) -> None:
    sandbox = await factory.create(request_for(), options_for(tmp_path))
    try:
        assert sandbox.python == sys.executable
        result = await sandbox.run([sandbox.python, "-c", "import attrs, sys; print(sys.executable)"], timeout_s=30)
        assert result.stdout.decode().strip() == sys.executable
    finally:
        await sandbox.close()


async def test_read_shows_more(tmp_path: Path) -> None:
    tools = tmp_path / "my tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin" / "hello-tool").write_text("#!/bin/sh\necho hello\n")
    (tools / "bin" / "hello-tool").chmod(0o755)
    (tmp_path / "other").write_text("shown")
    read = f"{tools}:{tmp_path / 'other'}"
    sandbox = await factory.create(request_for(), options_for(tmp_path, read=read))
    try:
        assert await sh(sandbox, f"hello-tool; cat {tmp_path / 'other'}") == "hello\nshown"
        assert "Read-only" in await sh(sandbox, f"touch '{tools}/x'")
    finally:
        await sandbox.close()
    with pytest.raises(UsageError, match="no such"):
        await factory.create(request_for(), options_for(tmp_path, read="/no/such/folder"))


async def test_a_link_made_inside_leads_the_orchestrator_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    sandbox = await factory.create(request_for(), options_for(tmp_path))
    try:
        await sh(sandbox, f"ln -s {secret} file; ln -s {tmp_path} folder; mkfifo pipe")
        for path in ("file", "folder/secret", "pipe"):
            with pytest.raises(SandboxError):
                await sandbox.read_file(f"/workspace/{path}", max_bytes=100)
        with pytest.raises(SandboxError):
            await sandbox.write_file("/workspace/folder/secret", b"overwritten")
        await sandbox.write_file("/workspace/file", b"replaces the link")
        assert secret.read_text() == "hunter2"
        assert not (tmp_path / "written").exists()
    finally:
        await sandbox.close()


@pytest.mark.parametrize(("network", "reached"), [("on", True), ("off", False)])
async def test_network(tmp_path: Path, network: str, reached: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        sandbox = await factory.create(request_for(), options_for(tmp_path, network=network))
        try:
            script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('reached')"
            result = await sandbox.run([sys.executable, "-c", script], timeout_s=30)
            assert (result.stdout == b"reached\n") is reached
        finally:
            await sandbox.close()


# -- auto ------------------------------------------------------------------------------------------


@pytest.fixture
def broken_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A bwrap that is there and fails, as where user namespaces are forbidden."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bwrap").write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2; exit 1\n")
    (folder / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    isolation.bubblewrap.cache_clear()
    yield
    isolation.bubblewrap.cache_clear()


@pytest.mark.usefixtures("broken_bubblewrap")
async def test_auto_without_bubblewrap_refuses_a_model(tmp_path: Path) -> None:
    for chosen in ("auto", "bwrap"):
        with pytest.raises(UsageError) as caught:
            await factory.create(request_for(), options_for(tmp_path, chosen))
        assert "install bubblewrap" in str(caught.value.mend)
        assert "--sandbox-opt isolation=none" in str(caught.value.mend)
    with pytest.raises(UsageError):
        await factory.create(request_for(runs_model=False), options_for(tmp_path, "bwrap"))
    assert not (tmp_path / "sandboxes").exists()


@pytest.mark.usefixtures("broken_bubblewrap")
async def test_auto_without_bubblewrap_warns_where_no_model_runs(tmp_path: Path) -> None:
    said: list[str] = []
    sandbox = await factory.create(request_for(runs_model=False, report=said.append), options_for(tmp_path, "auto"))
    await sandbox.close()
    assert len(said) == 1
    assert "without isolation" in said[0]
    with pytest.raises(UsageError, match="network"):
        await factory.create(request_for(runs_model=False), options_for(tmp_path, "auto", network="off"))


async def test_auto_uses_bubblewrap_where_it_works(tmp_path: Path) -> None:
    said: list[str] = []
    sandbox = await factory.create(request_for(report=said.append), options_for(tmp_path, "auto"))
    await sandbox.close()
    assert sandbox.record.isolated
    assert said == []


# -- life ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ISOLATIONS)
async def test_a_sandbox_ends_by_itself_and_the_next_creation_sweeps(tmp_path: Path, chosen: str, marker: str) -> None:
    options = options_for(tmp_path, chosen)
    sandbox = await factory.create(request_for(lifetime_s=0.5), options)
    await sandbox.spawn(["setsid", "-f", "sleep", marker])
    await until(lambda: len(processes_with(marker)) == 1)
    await until(lambda: not processes_with(marker))
    await until(lambda: not sandbox.record.is_running())
    with pytest.raises(SandboxLostError):
        await sandbox.run(["true"], timeout_s=5)
    with pytest.raises(SandboxLostError):
        await factory.attach(sandbox.id, options)
    assert await factory.list_live(options) == []
    again = await factory.create(request_for("other"), options)
    assert not sandbox.folder.path.exists()
    await again.close()


async def test_keep_alive_moves_the_end(tmp_path: Path) -> None:
    sandbox = await factory.create(request_for(lifetime_s=300), options_for(tmp_path))
    await sandbox.keep_alive(0.2)
    await until(lambda: not sandbox.record.is_running())
    await sandbox.close()


MAKER = """
import json, sys
import anyio
from envoi_trace_core.builtin.local_sandbox import factory
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.specs import SandboxRequest
given = json.loads(sys.argv[1])
async def main():
    request = SandboxRequest(name="box", trajectory_id="t", role="agent", lifetime_s=300, runs_model=True)
    sandbox = await factory.create(request, LocalSandboxOptions(**given["options"]))
    await sandbox.spawn(["sleep", given["spawned"]])
    print(sandbox.id, flush=True)
    await sandbox.run(["sh", "-c", f"sleep {given['in_flight']} & sleep {given['in_flight']}"], timeout_s=200)
anyio.run(main)
"""


@pytest.mark.parametrize("chosen", ISOLATIONS)
async def test_a_killed_maker_leaves_the_sandbox_but_not_its_command(tmp_path: Path, chosen: str, marker: str) -> None:
    options = options_for(tmp_path, chosen)
    in_flight = f"6{marker}"
    given = {
        "options": {"isolation": chosen, "root": options.root},
        "spawned": marker,
        "in_flight": in_flight,
    }
    with subprocess.Popen([sys.executable, "-c", MAKER, json.dumps(given)], stdout=subprocess.PIPE) as maker:  # noqa: ASYNC220
        assert maker.stdout is not None
        sandbox_id = (await anyio.to_thread.run_sync(maker.stdout.readline)).decode().strip()
        await until(lambda: len(processes_with(in_flight)) == 2)
        maker.send_signal(signal.SIGKILL)
    await until(lambda: not processes_with(in_flight))
    assert len(processes_with(marker)) == 1
    sandbox = await factory.attach(sandbox_id, options)
    assert (await sandbox.run(["echo", "here"], timeout_s=10)).stdout == b"here\n"
    assert await sandbox.is_alive("1")
    await sandbox.close()
    assert not processes_with(marker)
    assert [path.name for path in (tmp_path / "sandboxes").iterdir()] == [".lock"]


@pytest.mark.parametrize("chosen", ISOLATIONS)
async def test_close_ends_daemons_and_removes_what_resists(tmp_path: Path, chosen: str, marker: str) -> None:
    sandbox = await factory.create(request_for(), options_for(tmp_path, chosen))
    await sh(
        sandbox,
        f"setsid -f sleep {marker}; mkdir -p a/b; touch a/b/c; chmod 0 a/b/c a/b; chmod 500 a;"
        f"setsid -f sh -c 'trap \"\" TERM HUP INT; setsid -f sleep {marker}; sleep {marker}; true'",
    )
    await until(lambda: len(processes_with(marker)) == 3)
    await sandbox.close()
    assert not processes_with(marker)
    assert not sandbox.folder.path.exists()


async def test_without_isolation_close_finds_orphans_of_an_init_that_was_killed(tmp_path: Path, marker: str) -> None:
    sandbox = await factory.create(request_for(), options_for(tmp_path, "none"))
    await sandbox.spawn(["setsid", "-f", "sleep", marker])
    await until(lambda: len(processes_with(marker)) == 1)
    os.kill(sandbox.record.pid, signal.SIGKILL)
    with pytest.raises(SandboxLostError):
        await sandbox.run(["sleep", "5"], timeout_s=10)
    await sandbox.close()
    assert not processes_with(marker)


async def test_closing_ends_no_sandbox_of_the_same_name_elsewhere(tmp_path: Path) -> None:
    here = await factory.create(request_for("same"), options_for(tmp_path / "here"))
    there = await factory.create(request_for("same"), options_for(tmp_path / "there", "none"))
    await there.close()
    assert (await here.run(["echo", "here"], timeout_s=10)).stdout == b"here\n"
    await here.close()


async def test_losing_init_is_told_and_ends_everything(tmp_path: Path, marker: str) -> None:
    sandbox = await factory.create(request_for(), options_for(tmp_path))

    async def kill_it() -> None:
        await until(lambda: len(processes_with(marker)) == 1)
        os.kill(sandbox.record.pid, signal.SIGKILL)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill_it)
        try:
            await sandbox.run(["sleep", marker], timeout_s=30)
            lost = False
        except SandboxLostError:
            lost = True
    assert lost
    await until(lambda: not processes_with(marker))
    await sandbox.close()


async def test_a_number_that_belongs_to_another_process_is_not_taken_for_it(tmp_path: Path) -> None:
    options = options_for(tmp_path)
    sandbox = await factory.create(request_for(), options)
    path = sandbox.folder.path / "sandbox.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "pid": os.getpid()}))
    try:
        with pytest.raises(SandboxLostError):
            await factory.attach(sandbox.id, options)
        assert await factory.list_live(options) == []
    finally:
        await sandbox.close()


async def test_a_sandbox_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    options = options_for(tmp_path, read=f"{tmp_path}")  # its own folder would be shown inside: fine
    blocked = tmp_path / "sandboxes"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(UsageError, match="can't be made"):
        await factory.create(request_for(), options)
    assert blocked.read_text()


async def test_a_long_root_is_fine(tmp_path: Path) -> None:
    options = LocalSandboxOptions(root=str(tmp_path / ("long-" * 30) / ("er-" * 40)))
    sandbox = await factory.create(request_for("n" * 90), options)
    assert (await sandbox.run(["echo", "x"], timeout_s=10)).stdout == b"x\n"
    await sandbox.close()


async def test_two_creations_at_once_make_one_sandbox(tmp_path: Path) -> None:
    options = options_for(tmp_path)
    made: list[LocalSandbox] = []

    async def create() -> None:
        made.append(await factory.create(request_for("same"), options))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(create)
    assert {sandbox.id for sandbox in made} == {"same"}
    assert len({sandbox.record.pid for sandbox in made}) == 1
    await made[0].close()


@pytest.mark.parametrize("delay_s", [0, 0.005, 0.02, 0.05, 0.1])
async def test_a_creation_that_is_cancelled_leaves_nothing_or_a_whole_sandbox(tmp_path: Path, delay_s: float) -> None:
    options = options_for(tmp_path)
    made = None
    with anyio.move_on_after(delay_s):
        made = await factory.create(request_for(), options)
    if made is not None:
        await made.close()
    assert await factory.list_live(options) == []
    if (tmp_path / "sandboxes").exists():
        assert [path.name for path in (tmp_path / "sandboxes").iterdir()] == [".lock"]


async def test_a_lifetime_may_be_long(tmp_path: Path) -> None:
    sandbox = await factory.create(request_for(lifetime_s=1e8), options_for(tmp_path))
    assert (await sandbox.run(["true"], timeout_s=1e8)).exit_code == 0
    await sandbox.close()


async def test_a_close_is_finished_though_it_is_cancelled(tmp_path: Path, marker: str) -> None:
    sandbox = await factory.create(request_for(), options_for(tmp_path))
    await sandbox.spawn(["sleep", marker])
    with anyio.CancelScope() as scope:
        scope.cancel()
        await sandbox.close()
    assert not processes_with(marker)
    assert not sandbox.folder.path.exists()


@pytest.mark.parametrize("chosen", ISOLATIONS)
async def test_endless_output_takes_no_memory(tmp_path: Path, chosen: str) -> None:
    sandbox = await factory.create(request_for(), options_for(tmp_path, chosen))
    tracemalloc.start()
    try:
        with pytest.raises(SandboxTimeoutError) as caught:
            await sandbox.run(["yes"], timeout_s=1, max_output_bytes=1 << 20)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await sandbox.close()
    assert len(caught.value.stdout) == 1 << 20
    assert peak < 8 << 20


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    sandbox = await factory.create(request_for(), options_for(tmp_path))
    before = open_descriptors()
    for _ in range(3):
        await sandbox.run(["true"], timeout_s=10)
        with pytest.raises(SandboxError):
            await sandbox.run(["no-such-command"], timeout_s=10)
        async with sandbox.stream(["cat"]):
            pass
        with anyio.move_on_after(0.05):
            await sandbox.run(["sleep", "10"], timeout_s=20)
    assert open_descriptors() == before
    await sandbox.close()


async def test_ending_a_dead_sandbox_leaves_the_one_that_took_its_name(tmp_path: Path) -> None:
    options = options_for(tmp_path)
    dead = await factory.create(request_for(), options)
    os.kill(dead.record.pid, signal.SIGKILL)
    await until(lambda: not dead.record.is_running())
    async with anyio.create_task_group() as group:
        successor = await factory.create(request_for(), options)
        group.start_soon(dead.close)
    assert await sh(successor, "echo here") == "here\n"
    assert successor.folder.path.is_dir()
    await successor.close()
    assert not successor.folder.path.exists()


async def test_that_a_dockerfile_is_not_built_is_said_once(tmp_path):
    told: list[str] = []
    for name in ("one", "two"):
        request = attrs.evolve(
            request_for(name, runs_model=False, report=told.append), dockerfile=tmp_path / "Dockerfile"
        )
        await (await factory.create(request, options_for(tmp_path, "none"))).close()
    assert len([line for line in told if "Dockerfile is not built" in line]) == 1
