"""The limits of the C compiler environment one by one, also where a machine gives no namespaces or no second user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are Linux's"),
]

SOURCE = Path(__file__).parents[2] / "examples" / "environments" / "c_compiler"
NAP = f"sleep 62.{os.getpid():06}3"
"""Of this test process alone, so that what is left of it can be found."""

AS_IT_IS = "import confine; confine.main()"
WITHOUT_NAMESPACES = "import confine; confine.enter_namespaces = lambda covers: False; confine.main()"
WAYS = {
    "as_it_is": (AS_IT_IS, True),
    "one_user": (AS_IT_IS, False),
    "no_namespaces": (WITHOUT_NAMESPACES, True),
    "watched_only": (WITHOUT_NAMESPACES, False),
}
BOMB = f"f() {{ [ $1 -gt 9 ] || {{ f $(($1 + 1)) & f $(($1 + 1)) & }}; {NAP}; }}; f 0"
"""A thousand processes at most, should nothing stop it."""


@pytest.fixture(params=sorted(WAYS))
def way(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return WAYS[request.param]


def confined(tmp_path: Path, way: tuple[str, bool], command: str, **changes: Any) -> dict[str, Any]:
    """Run a shell command confined; what it wrote is in tmp_path/out."""
    program, own_user = way
    place = Path("/var/tmp") if os.getuid() == 0 else tmp_path  # another user must be able to go there
    folder = place / f"confined-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    (tmp_path / "in").write_text("")
    spec = {
        "argv": ["/bin/sh", "-c", command], "env": {"PATH": "/usr/bin:/bin"}, "cwd": str(folder),
        "stdin": str(tmp_path / "in"), "stdout": str(tmp_path / "out"), "stderr": str(tmp_path / "err"),
        "wall_s": 5.0, "cpu_s": 6.0, "memory_bytes": 1 << 29, "file_bytes": 1 << 22, "output_bytes": 1 << 16,
        "disk_bytes": 1 << 23, "processes": 16, "own_user": own_user, "covers": {}, **changes,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], input=json.dumps(spec), cwd=SOURCE, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def left() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if NAP in words:
                found.append(words)
    return found


def test_a_command_that_behaves(tmp_path: Path, way: tuple[str, bool]) -> None:
    answer = confined(tmp_path, way, "echo fine; exit 3")
    assert (answer["ended"], os.waitstatus_to_exitcode(int(answer["status"]))) == ("exited", 3)
    assert (tmp_path / "out").read_text() == "fine\n"


def test_a_fork_bomb_is_ended(tmp_path: Path, way: tuple[str, bool]) -> None:
    started = time.monotonic()
    answer = confined(tmp_path, way, BOMB)
    # Where the kernel refuses to fork, the shells give up, or go on trying until their time is over.
    assert answer["ended"] in (("processes", "timeout", "exited") if way[1] and os.getuid() == 0 else ("processes",))
    assert time.monotonic() - started < 60
    assert left() == []


def test_daemons_do_not_outlive_the_command(tmp_path: Path, way: tuple[str, bool]) -> None:
    answer = confined(tmp_path, way, f"(setsid sh -c '{NAP} & {NAP}' &) ; (setsid {NAP} &) ; sleep 0.2; echo done")
    assert answer["ended"] == "exited"
    assert left() == []


def test_time_is_bounded(tmp_path: Path, way: tuple[str, bool]) -> None:
    answer = confined(tmp_path, way, f"trap '' TERM INT HUP; {NAP}; {NAP}", wall_s=1.0)
    assert answer["ended"] == "timeout"
    assert left() == []


def test_output_files_and_disk_are_bounded(tmp_path: Path, way: tuple[str, bool]) -> None:
    # On a busy machine the limit of a file's size comes first.
    assert confined(tmp_path, way, "exec cat /dev/zero")["ended"] in ("output", "exited")
    assert (tmp_path / "out").stat().st_size <= 1 << 22
    (tmp_path / "out").unlink()
    fill = "i=0; while :; do i=$((i + 1)); head -c 1000000 /dev/zero >f$i; done"
    assert confined(tmp_path, way, fill)["ended"] == "disk"


def test_memory_is_bounded_for_all_processes_together(tmp_path: Path, way: tuple[str, bool]) -> None:
    one = "perl -e '$n = 60000000; $x = \"x\" x $n; sleep 8'"
    limits = {"memory_bytes": 200 << 20, "wall_s": 60.0, "cpu_s": 60.0, "processes": 64}
    assert confined(tmp_path, way, one.replace("sleep 8", "exit 0"), **limits)["status"] == "0"
    assert confined(tmp_path, way, f"for i in 1 2 3 4; do {one} & done; wait", **limits)["ended"] == "memory"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run commands as others")
def test_root_gives_each_command_a_user_of_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("what is expected")
    secret.chmod(0o600)
    answer = confined(
        tmp_path, WAYS["as_it_is"], f"id -u; cat {secret}; kill -9 {os.getpid()}; touch mine; ls -ln mine"
    )
    words = (tmp_path / "out").read_text().split()
    assert words[0] == str(answer["user"]) == words[3]
    assert 47_000 <= answer["user"] < 47_256
    assert "what is expected" not in (tmp_path / "out").read_text()
