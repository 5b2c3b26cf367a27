"""Whether bubblewrap works here, and the command line that makes one sandbox of it.

What a sandbox sees is a whitelist: the system's folders and the Python that runs the orchestrator, read-only,
and folders of its own. Everything else of the host (homes, the working directory, the state directory) is absent.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from envoi_trace_core.builtin.local_sandbox.folders import SandboxFolder

PROBE_TIMEOUT_S = 20.0
SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/etc", "/opt", "/nix")
INIT_INSIDE = "/run/envoi-trace/init.py"
WORKSPACE_INSIDE = "/workspace"
HOME_INSIDE = "/home/agent"
SUPPORT_INSIDE = "/envoi-trace"
AGENT_ID = "1000"

# Without capabilities the kernel still lets root of the host write these, and an orchestrator may be root: the user
# inside is mapped to it. bubblewrap covers only what it finds writable as a folder. The lists are Docker's.
READ_ONLY_PROC = ("bus", "fs", "irq", "mtrr", "sys", "sysrq-trigger")
HIDDEN_PROC = ("acpi", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")

# Places below the system's folders where people keep their own things.
PERSONAL_PLACES = ("/opt", "/usr/local", "/usr/src")

_NAMESPACES = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
    *("--uid", AGENT_ID, "--gid", AGENT_ID, "--hostname", "sandbox"),
    *("--new-session", "--cap-drop", "ALL"),
)


@functools.cache
def bubblewrap() -> str | None:
    """The path of a bubblewrap that really can make namespaces here; None when there is none. Blocks once."""
    program = shutil.which("bwrap")
    if program is None or not sys.platform.startswith("linux"):
        return None
    probe = [program, *_NAMESPACES, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    try:
        done = subprocess.run(probe, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return program if done.returncode == 0 else None


def bubblewrap_argv(
    program: str, folder: SandboxFolder, *, network: bool, read: Sequence[Path], ca_files: Sequence[Path]
) -> list[str]:
    """The bubblewrap command up to the command that it runs.

    Args:
        program: The path of bubblewrap.
        folder: Of the sandbox, on the host; its `workspace`, `home`, `tmp` and `support` are bound into it.
        network: Whether it shares the host's network.
        read: More paths to show read-only, absolute.
        ca_files: Certificates that the environment names.
    """
    argv = [program, *_NAMESPACES, "--as-pid-1"]
    if not network:
        argv.append("--unshare-net")
    for source in _system_folders():
        link = Path(source).is_symlink()
        argv += ["--symlink", str(Path(source).readlink()), source] if link else _show(source)
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--tmpfs", "/run"]  # noqa: S108
    argv += _proc_covers(folder)
    argv += ["--bind", str(folder.tmp), "/tmp"]  # noqa: S108
    argv += _masks(folder)
    for name in ("passwd", "group"):
        argv += _show(str(folder.path / name), f"/etc/{name}")
    argv += _resolver()
    for path in (*_python_folders(), *read, *ca_files):
        argv += _show_resolved(path)
    for own, target in (
        (folder.workspace, WORKSPACE_INSIDE),
        (folder.home, HOME_INSIDE),
        (folder.support, SUPPORT_INSIDE),
    ):
        argv += ["--bind", str(own), target]
    argv += _show(str(Path(__file__).with_name("init.py")), INIT_INSIDE)
    return [*argv, "--remount-ro", "/run", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORKSPACE_INSIDE]


def account_files() -> dict[str, str]:
    """An /etc/passwd and /etc/group that know the one user inside, and nobody of the host."""
    return {
        "passwd": f"root:x:0:0:root:/root:/bin/sh\nagent:x:{AGENT_ID}:{AGENT_ID}:agent:{HOME_INSIDE}:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        "group": f"root:x:0:\nagent:x:{AGENT_ID}:\nnogroup:x:65534:\n",
    }


def _show(source: str, target: str | None = None) -> list[str]:
    return ["--ro-bind", source, target or source]


def _show_resolved(path: Path) -> Iterator[str]:
    """Show a path under its own name and, when links lead to it, under its real one."""
    real = path.resolve()
    for target in dict.fromkeys((path, real)):
        shown = _is_below(target, SYSTEM_FOLDERS) and not _is_below(target, PERSONAL_PLACES)
        if not shown:
            yield from _show(str(real), str(target))


def _is_below(path: Path, places: Sequence[str]) -> bool:
    return any(Path(place) in path.parents for place in places)


def _system_folders() -> Iterator[str]:
    libraries = sorted(str(path) for path in Path("/").glob("lib*"))
    for path in (*SYSTEM_FOLDERS, *libraries):
        if Path(path).is_dir():
            yield path


def _proc_covers(folder: SandboxFolder) -> Iterator[str]:
    for path in (Path("/proc") / name for name in READ_ONLY_PROC):
        if path.exists():
            yield from _show(str(path))
    for path in (Path("/proc") / name for name in HIDDEN_PROC):
        if path.exists():
            yield from _show(str(folder.empty) if path.is_dir() else os.devnull, str(path))


def _masks(folder: SandboxFolder) -> Iterator[str]:
    """Hide what the whitelist would show too much.

    That is: files of /etc that only their owner may read (an orchestrator that is root could read them, and
    the user inside is mapped to it), and a home, working directory or sandbox folder below a system folder.
    """
    empty = str(folder.empty)
    for directory, directories, files in os.walk("/etc"):
        for name in list(directories):
            path = os.path.join(directory, name)  # noqa: PTH118 - thousands of them
            if not _is_public(path, 0o005):
                directories.remove(name)
                yield from _show(empty, path)
        for name in files:
            path = os.path.join(directory, name)  # noqa: PTH118
            if not _is_public(path, 0o004):
                yield from _show(os.devnull, path)
    for private in (Path.home(), Path.cwd(), folder.path.parent):
        if _is_below(private.resolve(), PERSONAL_PLACES):
            yield from _show(empty, str(private.resolve()))


def _is_public(path: str, wanted: int) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return True  # gone meanwhile
    return os.path.islink(path) or found.st_mode & wanted == wanted  # noqa: PTH114


def _resolver() -> list[str]:
    """DNS settings are often a link into /run, which the sandbox has for its own."""
    real = os.path.realpath("/etc/resolv.conf")
    if real.startswith("/etc/") or not Path(real).is_file():
        return []
    return _show(real)


def _python_folders() -> list[Path]:
    """What it takes to run `sys.executable`: its prefixes, and those of every link on the way to the binary."""
    prefixes = [Path(sys.base_prefix), Path(sys.prefix)]
    program = Path(sys.executable)
    while program.is_symlink():
        program = program.parent / program.readlink()
        prefixes.append(Path(os.path.normpath(program)).parent.parent)
    shown: dict[Path, None] = {}
    for prefix in prefixes:
        if prefix == Path("/usr") or Path("/usr/local") == prefix:
            continue
        private = (Path.home(), Path.cwd())
        if any(place == prefix or prefix in place.parents for place in private):
            # A prefix that holds more than a Python: only what belongs to one.
            parts = ("bin", "lib", "lib64", "include", "pyvenv.cfg")
            shown.update({prefix / part: None for part in parts if (prefix / part).exists()})
        else:
            shown[prefix] = None
    return list(shown)
