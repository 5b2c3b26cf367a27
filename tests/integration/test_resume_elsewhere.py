"""A run goes on where nothing of it is left but what is stored: another state folder, another working directory."""

from __future__ import annotations

import json
import shutil
import subprocess

import attrs
import pytest

pytestmark = pytest.mark.slow

PARTS = 6


def numbered(bench, count=PARTS, pause_s=0.4):
    """Each part appends its number to one file, so that a part that is missing or done twice shows in the end."""
    actions = []
    for n in range(1, count + 1):
        actions += [{"run": f"echo {n} >> log.txt"}, {"sleep": pause_s}]
    bench.script(*actions)


def elsewhere(bench, tmp_path):
    """The same storage, seen from a machine that knows nothing."""
    return attrs.evolve(bench, state=tmp_path / "state-2")


def stored_parts(bench, trajectory_id="t1"):
    folder = bench.root / "trajectories" / trajectory_id / "resume" / "journal"
    if not folder.is_dir():
        return 0
    return sum(path.read_text().count('"PartRecorded"') for path in sorted(folder.glob("0*.jsonl")))


def log_at(bench, run, commit):
    tree = bench.tree_at(run, commit).strip()
    clone = run.folder.parent / f"{run.trajectory_id}-clone"
    done = subprocess.run(["git", "show", f"{tree}:log.txt"], cwd=clone, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def end_sandboxes(bench):
    bench.cli("cleanup", "--yes", "--all", "--sandbox", "local")


def assert_exact(bench, run, count=PARTS):
    rows = [row for row in run.rows if row["part_type"] == "tool"]
    assert [row["part"] for row in run.rows] == list(range(1, len(run.rows) + 1))
    assert len(rows) == count
    for n, row in enumerate(rows, 1):
        assert log_at(bench, run, row["git_commit"]) == list(range(1, n + 1))
        assert row["repo_checkpoint"]["commit_after"] == row["git_commit"]
        assert [file["path"] for file in row["repo_checkpoint"]["changed_files"]] == ["log.txt"]


def test_killed_here_it_goes_on_elsewhere_with_nothing_twice_and_nothing_missing(bench, tmp_path, wait_until):
    numbered(bench, pause_s=2.0)  # it must be killed in the middle, on a slow machine too
    process = bench.start("--max-turns", "1")
    wait_until(lambda: stored_parts(bench) >= 3)
    bench.kill_hard(process)
    before = stored_parts(bench)
    there = elsewhere(bench, tmp_path)
    run = there.run("--max-turns", "1")
    assert run.exit_status == 0, run.stderr
    assert "brought here" in run.stderr
    assert run.summary["turns"] == 1
    assert 3 <= before < PARTS
    assert_exact(bench, run)
    end_sandboxes(bench)


def test_it_goes_from_machine_to_machine_and_back(bench, tmp_path):
    numbered(bench, pause_s=0.01)
    there = elsewhere(bench, tmp_path)
    for limit, place in ((2, bench), (4, there), (PARTS, bench)):
        run = place.run("--max-parts", str(limit))
        assert run.summary["reason"] == "part_limit", run.stderr
        assert len(run.rows) == limit
    # What the first machine had was put aside, not thrown away.
    assert len(list((bench.state / "replaced").iterdir())) == 1
    assert_exact(bench, run)


def test_what_is_stored_has_the_configuration_and_no_gap(bench):
    numbered(bench, count=3, pause_s=0.01)
    run = bench.run("--max-turns", "1", "--timeout", "77")
    resume = run.folder / "resume"
    config = json.loads((resume / "config.json").read_text())
    assert (config["timeout_s"], config["task"], config["max_turns"]) == (77, str(bench.task), 1)
    for name in ("journal", "events"):
        stored = b"".join(path.read_bytes() for path in sorted((resume / name).iterdir()))
        assert stored == bench.journal().with_name(f"{name}.jsonl").read_bytes()
    assert list((resume / "agent").iterdir())
    assert not (resume / "lease.json").exists()


def test_a_solved_run_leaves_nothing_but_its_artifacts_and_says_so_anywhere(bench, tmp_path):
    bench.main_py(
        "import envoi\n\n@envoi.test()\nasync def passes():\n    return {'passed': 1, 'failed': 0, 'total': 1}\n"
    )
    bench.script({"write": "a.txt", "content": "a"}, {"sleep": 60})
    run = bench.run()
    assert run.summary["reason"] == "solved"
    names = sorted(path.name for path in run.folder.iterdir())
    assert names == ["events.jsonl.zst", "repo.bundle", "run.log", "trace.parquet"]
    assert not bench.journal().parent.exists()
    before = (run.folder / "trace.parquet").read_bytes()
    for place in (bench, elsewhere(bench, tmp_path)):
        again = place.run()
        assert again.exit_status == 0, again.stderr
        assert "before" in again.summary["message"]
        assert again.summary["parts"] == run.summary["parts"]
    assert (run.folder / "trace.parquet").read_bytes() == before


def test_a_trace_with_nothing_to_go_on_with_is_not_overwritten(bench, tmp_path):
    numbered(bench, count=2, pause_s=0.01)
    run = bench.run("--max-turns", "1")
    before = (run.folder / "trace.parquet").read_bytes()
    shutil.rmtree(run.folder / "resume")
    again = elsewhere(bench, tmp_path).run("--max-turns", "2")
    assert again.exit_status == 2
    assert "nothing that its run could go on with" in again.stderr
    assert (run.folder / "trace.parquet").read_bytes() == before
