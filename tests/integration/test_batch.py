"""`envoi-trace batch PLAN.toml` by the real command: what runs, what fails, what is left, and what a kill leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import attrs
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

FRAIL = "b.frail.task.env.t1"


@attrs.define
class Plan:
    """A plan beside a bench's task and environment; each trial that really plays leaves a line in `played`."""

    bench: object
    folder: Path
    extra: str = ""
    defaults: dict = attrs.field(factory=dict)
    scripts: dict = attrs.field(factory=dict)

    @property
    def played(self) -> Path:
        return self.folder / "played"

    def mark(self, word="played"):
        """An action that leaves a line. The sandbox has no isolation, so that it can."""
        return {"run": f"echo {word} >> {self.played}"}

    def script(self, name, *actions):
        self.scripts[name] = f"{name}.jsonl"
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(action) + "\n" for action in actions))

    def write(self) -> str:
        agents = [f'{{ agent = "script", name = "{name}", agent-opt = {{ script = "{path}" }} }}'
                  for name, path in self.scripts.items()]  # fmt: skip
        defaults = {
            "sandbox": "local", "sandbox-opt": {"isolation": "none"}, "auto-resume": False, "max-turns": 1,
            "restart-delay": 0, **self.defaults,
        }  # fmt: skip
        lines = [
            'name = "b"', 'storage = "local"', f"agents = [{', '.join(agents)}]", self.extra,
            f"[[tasks]]\ntask = {str(self.bench.task)!r}\nenv = {str(self.bench.environment)!r}", "[defaults]",
            *(f"{key} = {_toml(value)}" for key, value in defaults.items()),
        ]  # fmt: skip
        path = self.folder / "plan.toml"
        path.write_text("\n".join(lines))
        return str(path)

    def words(self, *options):
        return self.bench.command("batch", self.write(), "--json", *options)

    def run(self, *options, timeout_s=110):
        return subprocess.run(
            self.words(*options), cwd=self.bench.root, env=self.bench.environ,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def start(self, *options):
        return subprocess.Popen(
            self.words(*options), cwd=self.bench.root, env=self.bench.environ,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def rows(self, trajectory_id):
        with pq.ParquetFile(self.bench.root / "trajectories" / trajectory_id / "trace.parquet") as file:
            return file.read().to_pylist()

    def has_ended(self, trajectory_id):
        """Whether the storage says so."""
        if not (self.bench.root / "trajectories" / trajectory_id / "trace.parquet").exists():
            return False
        return any(row["session_end_reason"] is not None for row in self.rows(trajectory_id))

    def waits(self, trajectory_id):
        """Whether it once was to go on after a failure."""
        return (self.bench.root / "trajectories" / trajectory_id / "resume" / "restart.json").exists()

    def ids(self):
        return sorted(path.name for path in (self.bench.root / "trajectories").iterdir())

    def lines_played(self):
        return self.played.read_text().split() if self.played.exists() else []

    def sessions(self, trajectory_id):
        """How often an orchestrator began, or went on with, the agent's session."""
        return self.bench.journal(trajectory_id).read_text().count('"SessionBegun"')


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def summary(text):
    return json.loads(text.strip().splitlines()[-1])


def attempts(told):
    return [attempt for cell in told["cells"] for trial in cell["trials"] for attempt in trial["attempts"]]


@pytest.fixture
def plan(bench, tmp_path):
    folder = tmp_path / "plans"
    folder.mkdir()
    return Plan(bench, folder)


def test_cells_rows_and_a_failing_cell_that_is_kept(plan):
    plan.script("good", plan.mark(), {"write": "a.txt", "content": "a"})
    plan.script("bad", plan.mark(), {"fail": "the model refused"})
    plan.extra = "trials = 2"
    done = plan.run()
    assert done.returncode == 3, done.stderr
    told = summary(done.stdout)
    counts = ("trials", "ended", "failed", "infrastructure_failures")
    assert [told[name] for name in counts] == [4, 4, 2, 0]
    assert told["exit_status"] == 3
    assert plan.ids() == [f"b.{name}.task.env.t{n}" for name in ("bad", "good") for n in (1, 2)]
    for trajectory_id in plan.ids():
        [(batch, trial)] = {(row["batch"], row["trial"]) for row in plan.rows(trajectory_id)}
        assert (batch, trial) == ("b", int(trajectory_id[-1]))
    assert {row["session_end_reason"] for row in plan.rows("b.bad.task.env.t1")[-1:]} == {"agent_error"}
    assert "failed:" in done.stderr
    assert "the model refused" in done.stderr
    again = plan.run()
    assert again.returncode == 3, "a batch with a failed trial stays one"
    assert summary(again.stdout)["ended_before"] == 4
    assert len(plan.lines_played()) == 4, "an agent's failure is a result: it is not made again"


def test_killed_in_the_middle_the_same_command_finishes_the_rest_only(plan, bench, wait_until):
    go = plan.folder / "go"
    gate = f"if [ $(grep -c played {plan.played}) -gt 2 ]; then until [ -e {go} ]; do sleep 0.05; done; fi"
    plan.script("slow", plan.mark(), {"run": gate, "timeout_s": 100}, plan.mark("end"))
    plan.extra = "trials = 6\nconcurrency = 2"
    process = plan.start()
    wait_until(lambda: "end" in plan.lines_played() and plan.lines_played().count("played") >= 3, timeout_s=100)
    wait_until(lambda: any(map(plan.has_ended, plan.ids())))
    bench.kill_hard(process)
    go.touch()
    ended = {trajectory_id for trajectory_id in plan.ids() if plan.has_ended(trajectory_id)}
    begun = {i: plan.sessions(i) for i in plan.ids() if bench.journal(i).exists()}
    assert ended < begun.keys(), "some trials were in the middle"
    done = plan.run()
    assert done.returncode == 0, done.stderr
    told = summary(done.stdout)
    assert (told["ended"], told["ended_before"]) == (6, len(ended))
    assert sorted(plan.lines_played()) == ["end"] * 6 + ["played"] * 6, "each trial was played once"
    for trajectory_id in plan.ids():
        assert plan.sessions(trajectory_id) == begun.get(trajectory_id, 0) + (trajectory_id not in ended)
        assert len(plan.rows(trajectory_id)) == 3
    assert len(plan.ids()) == 6
    assert bench.sandboxes() == []


def test_an_environment_that_fails_once_is_tried_again_and_counted_apart(plan, bench):
    plan.script("good", plan.mark())
    marker = plan.folder / "failed-once"
    setup = f"#!/bin/sh\nif [ -e {marker} ]; then exit 0; fi\ntouch {marker}\necho broken >&2\nexit 1\n"
    (bench.environment / "setup.sh").write_text(setup)
    done = plan.run()
    assert done.returncode == 0, done.stderr
    told = summary(done.stdout)
    assert (told["ended"], told["failed"], told["infrastructure_failures"]) == (1, 0, 1)
    assert plan.ids() == ["b.good.task.env.t1", "b.good.task.env.t1.a2"], "the failed attempt is kept"
    assert [attempt["reason"] for attempt in attempts(told)] == ["envoi_error", "turn_limit"]
    assert plan.rows("b.good.task.env.t1.a2")[0]["trial"] == 1
    again = plan.run()
    assert (again.returncode, summary(again.stdout)["ended_before"]) == (0, 1)


def test_an_environment_that_always_fails_is_tried_so_often_and_no_more(plan, bench):
    plan.script("good", plan.mark())
    (bench.environment / "setup.sh").write_text("#!/bin/sh\nexit 1\n")
    plan.extra = "retries = 1"
    done = plan.run()
    assert done.returncode == 4, done.stderr
    told = summary(done.stdout)
    assert (told["failed"], told["infrastructure_failures"], len(attempts(told))) == (1, 2, 2)
    again = plan.run("--retries", "2")
    assert len(attempts(summary(again.stdout))) == 3, "more retries make one more attempt"
    assert plan.lines_played() == []


def test_a_spent_budget_starts_nothing_more_and_a_larger_one_goes_on(plan):
    usage = {"usage": {"input": 900, "output": 50, "cost_usd": 0.4}}
    plan.script("good", plan.mark(), usage)
    plan.extra = "trials = 4\nconcurrency = 1\nmax-total-cost-usd = 0.7"
    done = plan.run()
    assert done.returncode == 0, done.stderr
    told = summary(done.stdout)
    assert (told["ended"], told["not_started"]) == (2, 2)
    assert told["cost_usd"] == pytest.approx(0.8)
    assert "2 not started: the total cost budget of $0.7 is spent" in done.stderr
    again = plan.run()
    assert summary(again.stdout)["not_started"] == 2, "what earlier commands spent counts"
    more = plan.run("--max-total-cost-usd", "10")
    assert (summary(more.stdout)["ended"], summary(more.stdout)["ended_before"]) == (4, 2)
    assert len(plan.lines_played()) == 4


def test_ctrl_c_saves_all_that_run_and_starts_nothing(plan, bench, wait_until):
    plan.script("slow", plan.mark(), {"sleep": 100})
    plan.extra = "trials = 5\nconcurrency = 2"
    process = plan.start()
    wait_until(lambda: len(plan.lines_played()) == 2, timeout_s=60)
    wait_until(lambda: sum(map(bench.parts, plan.ids())) == 2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 130, stderr
    told = summary(stdout)
    assert (told["interrupted"], told["not_started"], told["exit_status"]) == (2, 3, 130)
    assert "goes on with what is left" in stderr
    for trajectory_id in plan.ids():
        [row] = plan.rows(trajectory_id)
        assert row["session_end_reason"] == "interrupted"
    assert len(plan.ids()) == 2
    assert bench.sandboxes() == []


@pytest.mark.parametrize("ended_by", ["ctrl-c", "kill"])
def test_ended_while_it_waits_to_go_on_after_a_failure_it_goes_on_with_the_next_command(
    plan, bench, wait_until, ended_by
):
    plan.script("frail", plan.mark(), {"fail": "the model is overloaded", "once": True}, plan.mark("end"))
    plan.defaults = {"auto-resume": True, "restart-delay": 200}
    process = plan.start()
    wait_until(lambda: plan.waits(FRAIL), timeout_s=60)
    if ended_by == "kill":
        bench.kill_hard(process)
    else:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=100)
        assert process.returncode == 130, stderr
        assert summary(stdout)["interrupted"] == 1
        assert "goes on with what is left" in stderr
    assert [row["session_end_reason"] for row in plan.rows(FRAIL)][-1] == "agent_error"
    done = plan.run()
    assert (done.returncode, summary(done.stdout)["failed"]) == (0, 0), done.stderr
    assert plan.lines_played() == ["played", "end"]
    assert plan.ids() == [FRAIL], "it is no new attempt"


def test_a_failure_that_was_given_up_is_not_gone_on_with(plan, bench):
    plan.script("frail", plan.mark(), *[{"fail": "the model is overloaded"}] * 9)
    plan.defaults = {"auto-resume": True, "max-restarts": 1}
    assert plan.run().returncode == 3
    assert plan.waits(FRAIL), "of the failure before the last"
    sessions = plan.sessions(FRAIL)
    again = plan.run()
    assert (again.returncode, summary(again.stdout)["ended_before"]) == (3, 1), again.stderr
    assert plan.sessions(FRAIL) == sessions


def test_a_trial_that_another_process_runs_is_left_to_it(plan, bench, wait_until):
    plan.script("slow", plan.mark(), {"sleep": 100})
    first = plan.start()
    wait_until(lambda: len(plan.lines_played()) == 1, timeout_s=60)
    second = plan.run()
    assert summary(second.stdout)["held"] == 1, second.stderr
    assert second.returncode == 1
    assert "is being run by" in second.stderr
    first.send_signal(signal.SIGTERM)
    _, stderr = first.communicate(timeout=100)
    assert first.returncode == 143, stderr
    assert plan.lines_played() == ["played"]


def test_two_commands_at_once_share_the_work(plan, bench):
    plan.script("good", plan.mark())
    plan.extra = "trials = 6\nconcurrency = 1"
    both = [plan.start(), plan.start()]
    told = [summary(process.communicate(timeout=110)[0]) for process in both]
    last = plan.run()
    assert (last.returncode, summary(last.stdout)["ended_before"]) == (0, 6), told
    assert len(plan.lines_played()) == 6, "no trial was played twice"
    assert all(plan.sessions(trajectory_id) == 1 for trajectory_id in plan.ids())


def test_below_the_wanted_share_it_exits_6(plan):
    plan.script("good", plan.mark())
    done = plan.run("--fail-under", "0.5")
    assert done.returncode == 6, done.stderr
    assert summary(done.stdout)["exit_status"] == 6


def test_on_a_terminal_a_table_goes_along(plan, bench, tmp_path):
    plan.script("good", plan.mark(), {"usage": {"input": 9, "output": 5, "cost_usd": 0.25}})
    plan.extra = "trials = 2"
    screen, terminal = os.openpty()
    words = [word for word in plan.words() if word != "--json"]
    environ = {**bench.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = subprocess.Popen(words, cwd=bench.root, env=environ, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # the terminal is gone when the last writer is
        while data := os.read(screen, 65536):
            shown += data
    os.close(screen)
    assert process.wait(timeout=60) == 0, shown
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "BATCH: b" in text
    assert text.count("waiting  running  ended") > 3, "it is drawn again and again"
    assert re.search(r"good\.task\.env +- +- +2 +- +- +- +- +2 +\$0\.50", text)
    assert "begins" not in text, "lines of starts are for where there is no table"
