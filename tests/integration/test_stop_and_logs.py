"""`envoi-trace stop` and `logs` of a run in another terminal, over the storage alone."""

from __future__ import annotations

import subprocess
import threading

import pytest

pytestmark = pytest.mark.slow

STORAGE = ("--storage", "local")


def test_stop_saves_the_run_and_ends_it_as_an_interrupt(bench, wait_until):
    bench.script({"write": "a.txt", "content": "one"}, {"sleep": 60})
    process = bench.start()
    wait_until(lambda: bench.parts() >= 1, timeout_s=60)
    done = bench.cli("stop", "t1", *STORAGE)
    assert done.returncode == 0, done.stderr
    assert "stopped t1" in done.stdout
    process.communicate(timeout=60)
    assert process.returncode == 130
    run = bench.finished()
    assert run.rows[-1]["session_end_reason"] == "interrupted"
    assert not bench.sandboxes()
    assert not (run.folder / "resume" / "stop.json").exists()


def test_stop_ends_a_run_that_waits_for_its_restart(bench, wait_until):
    bench.script({"text": "on"}, {"fail": "the agent broke"})
    process = bench.start("--auto-resume", "--restart-delay", "60")
    wait_until(lambda: not bench.sandboxes() and bench.parts() >= 1, timeout_s=60)
    done = bench.cli("stop", "t1", *STORAGE)
    assert done.returncode == 0, done.stderr
    process.communicate(timeout=60)
    assert process.returncode == 3  # it had failed, and nothing new began


def test_stop_of_a_run_that_is_over_or_was_killed_says_so(bench, wait_until):
    bench.script({"text": "on"}, {"sleep": 60})
    process = bench.start()
    wait_until(lambda: bench.parts() >= 1, timeout_s=60)
    bench.kill_hard(process)
    killed = bench.cli("stop", "t1", *STORAGE)
    assert (killed.returncode, "nobody runs" in killed.stderr) == (2, True), killed.stderr
    assert not (bench.finished().folder / "resume" / "stop.json").exists()
    assert bench.run("--max-parts", "1").exit_status == 0
    over = bench.cli("stop", "t1", *STORAGE)
    assert (over.returncode, "nobody runs" in over.stderr) == (2, True), over.stderr


def test_logs_give_what_the_run_told_and_follow_it_to_its_end(bench, wait_until):
    bench.script({"write": "a.txt", "content": "one"}, {"sleep": 3}, {"text": "the last words"})
    process = bench.start("--max-parts", "2")
    wait_until(lambda: bench.parts() >= 1, timeout_s=60)
    lines: list[str] = []
    first_part = threading.Event()
    with subprocess.Popen(
        bench.command("logs", "t1", "--follow", *STORAGE),
        cwd=bench.root,
        env=bench.environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as followed:

        def read() -> None:
            for line in followed.stdout:
                lines.append(line)
                if "    1 patch" in line:
                    first_part.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert first_part.wait(60)
        assert process.poll() is None, "it was told while the run went on"
        process.communicate(timeout=60)
        reader.join(60)
    told = "".join(lines)
    assert "-- begins" in told
    assert "the last words" in told
    assert "-- part_limit" in told
    again = bench.cli("logs", "t1", *STORAGE)
    assert again.returncode == 0
    assert again.stdout == told


def test_logs_of_a_solved_run_are_kept(bench):
    bench.main_py(SOLVABLE)
    bench.script({"write": "answer.txt", "content": "42"})
    assert bench.run().summary["reason"] == "solved"
    assert not list((bench.finished().folder / "resume").glob("*"))
    told = bench.cli("logs", "t1", *STORAGE)
    assert "-- solved" in told.stdout


SOLVABLE = """
import envoi

@envoi.test
async def has_answer():
    path = envoi.session_path() / "answer.txt"
    good = path.is_file() and path.read_text().strip() == "42"
    return {"passed": int(good), "failed": int(not good), "total": 1}
"""
