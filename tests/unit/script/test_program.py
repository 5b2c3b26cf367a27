"""The archive that goes into the sandbox, by itself."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from envoi_trace_core.builtin.script.install import player_archive
from envoi_trace_core.builtin.script.player.files import RefusedError, apply_patch, write_file


def _works(program: str) -> bool:
    """A version manager's stand-in is on the PATH for versions that it does not run."""
    found = shutil.which(program)
    return found is not None and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0


OLDEST = "python3.9"


def test_it_is_the_same_each_time_and_has_no_syntax_newer_than_3_9():
    data = player_archive()
    assert data == player_archive()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        names = archive.namelist()
        assert {"__main__.py", "player/main.py"} <= set(names)
        for name in names:
            ast.parse(archive.read(name), name, feature_version=(3, 9))


def home_for(tmp_path: Path, *actions: dict[str, object]) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "work").mkdir()
    (home / "player.pyz").write_bytes(player_archive())
    config = {"session_id": "s", "workspace": str(tmp_path / "work"), "checkpoint_command": [], "mcp_servers": []}
    (home / "config.json").write_text(json.dumps(config))
    (home / "actions.json").write_text(json.dumps(actions))
    return home


def run_player(python: str, home: Path, messages: bytes) -> list[dict[str, Any]]:
    argv = [python, "-I", "-S", str(home / "player.pyz"), str(home)]
    done = subprocess.run(argv, input=messages, capture_output=True, timeout=30, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "python",
    [sys.executable, pytest.param(OLDEST, marks=pytest.mark.skipif(not _works(OLDEST), reason="no python3.9 here"))],
)
def test_it_plays_with_nothing_but_the_standard_library(tmp_path, python):
    actions = [{"run": "cat f || echo none"}, {"write": "f", "content": "x"}, {"run_tests": ""}, {"sleep": 0}]
    home = home_for(tmp_path, *actions)
    events = run_player(python, home, b'no message\n[]\n{"type":"prompt","turn_id":"t","text":"go"}\n')
    statuses = [event["item"]["status"] for event in events if event["type"] == "item.completed"]
    assert statuses == ["completed", "completed", "failed"]
    assert events[-1]["type"] == "turn.completed"
    assert (tmp_path / "work" / "f").read_text() == "x"


def test_what_a_killed_player_had_written_down_and_not_yet_told_is_told_by_the_next(tmp_path):
    """The instant between the two can't be hit from outside, so its state is laid out by hand."""
    home = home_for(tmp_path, {"write": "f", "content": "x"}, {"text": "next"})
    untold = {"type": "item.completed", "item": {"id": "s-1", "kind": "file_write"}, "next_action": 1}
    state = {"next_action": 1, "turn_id": "t", "turns": 1, "failed_once": [], "pending": [untold]}
    (home / "state.json").write_text(json.dumps(state))
    events = run_player(sys.executable, home, b"")
    assert [event.get("item", {}).get("id") for event in events if event["type"] == "item.completed"] == ["s-1", "s-2"]
    assert events[-1]["type"] == "turn.completed"
    assert not (tmp_path / "work" / "f").exists(), "what was done is not done again"
    [written_down] = json.loads((home / "state.json").read_text())["pending"]
    assert written_down["type"] == "turn.completed"


NEW_FILE = "--- /dev/null\n+++ b/sub/f\n@@ -0,0 +1 @@\n+one\n"


def test_a_patch_applies_below_another_repository(tmp_path):
    """git would take the outer repository for the patch's, and say nothing of the paths that it left out."""
    work = tmp_path / "work"
    work.mkdir()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    apply_patch(str(work), "diff --git a/sub/f b/sub/f\nnew file mode 100644\n" + NEW_FILE)
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
