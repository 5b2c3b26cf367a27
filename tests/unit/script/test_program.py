"""The archive that goes into the sandbox, by itself."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO

import pytest

from envoi_trace_core.builtin.script.install import player_archive
from envoi_trace_core.builtin.script.player.files import RefusedError, apply_patch, write_file

OLDEST = shutil.which("python3.9")


def test_it_is_the_same_each_time_and_has_no_syntax_newer_than_3_9():
    data = player_archive()
    assert data == player_archive()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        names = archive.namelist()
        assert {"__main__.py", "player/main.py"} <= set(names)
        for name in names:
            ast.parse(archive.read(name), name, feature_version=(3, 9))


@pytest.mark.parametrize(
    "python", [sys.executable, pytest.param(OLDEST, marks=pytest.mark.skipif(not OLDEST, reason="no python3.9"))]
)
def test_it_plays_with_nothing_but_the_standard_library(tmp_path, python):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "player.pyz").write_bytes(player_archive())
    config = {"session_id": "s", "workspace": str(work), "checkpoint_command": [], "mcp_servers": []}
    (home / "config.json").write_text(json.dumps(config))
    actions = [{"run": "cat f || echo none"}, {"write": "f", "content": "x"}, {"run_tests": ""}, {"sleep": 0}]
    (home / "actions.json").write_text(json.dumps(actions))
    argv = [python, "-I", "-S", str(home / "player.pyz"), str(home)]
    prompt = b'no message\n[]\n{"type":"prompt","turn_id":"t","text":"go"}\n'
    done = subprocess.run(argv, input=prompt, capture_output=True, timeout=30, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["item"]["status"] for event in events if event["type"] == "item.completed"] == [
        "completed",
        "completed",
        "failed",
    ]
    assert events[-1]["type"] == "turn.completed"
    assert (work / "f").read_text() == "x"


NEW_FILE = "--- /dev/null\n+++ b/sub/f\n@@ -0,0 +1 @@\n+one\n"


def test_a_patch_applies_below_another_repository(tmp_path):
    """git would take the outer repository for the patch's, and say nothing of the paths that it left out."""
    work = tmp_path / "work"
    work.mkdir()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    apply_patch(str(work), NEW_FILE)
    assert (work / "sub" / "f").read_text() == "one\n"


def test_a_patch_applies_without_git(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    work = tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    (tools / "patch").symlink_to(shutil.which("patch") or pytest.skip("patch is not installed"))
    monkeypatch.setenv("PATH", str(tools))
    apply_patch(str(work), NEW_FILE)
    assert (work / "sub" / "f").read_text() == "one\n"
    both = NEW_FILE.replace("sub/f", "g") + "--- a/sub/f\n+++ b/sub/f\n@@ -1 +1 @@\n-two\n+three\n"
    with pytest.raises(RefusedError):
        apply_patch(str(work), both)
    assert sorted(path.name for path in work.iterdir()) == ["sub"], "all of it or nothing"


@pytest.mark.parametrize("path", ["../x", "/x", "link/x"])
def test_nothing_is_written_out_of_the_workspace(tmp_path, path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "link").symlink_to(tmp_path)
    with pytest.raises(RefusedError, match="out of the workspace"):
        write_file(str(work), path, "x")
    with pytest.raises(RefusedError, match="out of the workspace"):
        apply_patch(str(work), NEW_FILE.replace("b/sub/f", path))
    assert not (tmp_path / "x").exists()
