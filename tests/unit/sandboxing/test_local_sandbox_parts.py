from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envoi_trace_core.builtin.local_sandbox import folders, init
from envoi_trace_core.builtin.local_sandbox.options import LocalSandboxOptions
from envoi_trace_core.errors import UsageError


def test_the_descriptor_imports_nothing_heavy() -> None:
    script = (
        "import sys; import envoi_trace_core.builtin.local_sandbox.spec;"
        "print([n for n in ('asyncio', 'anyio', 'cattrs', 'subprocess', 'socket') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_init_is_python_3_9_with_the_standard_library_only() -> None:
    tree = ast.parse(Path(init.__file__).read_text(), feature_version=(3, 9))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= sys.stdlib_module_names


def test_any_name_gives_a_folder_of_its_own(tmp_path: Path) -> None:
    options = LocalSandboxOptions(root=str(tmp_path))
    names = ["plain-1.a_b", "a b", "a/b", "../../etc", "", ".", "x" * 300, ".hidden", "\udcff"]
    found = {folders.folder_for_name(options, name).path for name in names}
    assert len(found) == len(names)
    assert {path.parent for path in found} == {tmp_path}
    assert folders.folder_for_name(options, "plain-1.a_b").id == "plain-1.a_b"


@pytest.mark.parametrize("sandbox_id", ["", "..", "../x", "a/b", ".lock", "a\nb"])
def test_an_id_never_leads_elsewhere(tmp_path: Path, sandbox_id: str) -> None:
    with pytest.raises(UsageError, match="no id"):
        folders.folder_for_id(LocalSandboxOptions(root=str(tmp_path)), sandbox_id)


def test_trees_are_removed_however_deep_and_without_permissions(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (top / "link").symlink_to(outside)
    fd = os.open(top, os.O_RDONLY)
    for _ in range(1500):  # deeper than paths and recursion may be
        os.mkdir("d" * 50, dir_fd=fd)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    (top / "locked" / "more").mkdir(parents=True)
    (top / "locked" / "more" / "file").touch(mode=0)
    (top / "locked" / "more").chmod(0)
    (top / "locked").chmod(0o500)
    folders.remove_tree(top)
    assert not top.exists()
    assert (outside / "kept").read_text() == "kept"
    folders.remove_tree(top)


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = folders.process_start(process.pid)
    assert started
    assert started == folders.process_start(process.pid)
    assert started != folders.process_start(os.getpid())
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert folders.process_start(process.pid) == ""  # a zombie is no living process
    process.communicate()
    assert folders.process_start(process.pid) == ""
