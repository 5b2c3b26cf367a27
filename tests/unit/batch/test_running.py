"""The rules of a batch, with a launcher that ends trajectories as a test says; whole ones are in tests/integration."""

from __future__ import annotations

import gc
import resource
import weakref
from collections import Counter

import anyio
import attrs
import pytest

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.domain.facts import UsageRecorded
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_core.errors import InterruptedRunError, StorageError, UsageError
from envoi_trace_core.run.batch.cells import Batch, Cell, Trial, check_batch_name, new_batch_name
from envoi_trace_core.run.batch.check import check_batch
from envoi_trace_core.run.batch.limits import FILES_A_TRAJECTORY, FILES_BESIDE, allow_open_files
from envoi_trace_core.run.batch.progress import Progress
from envoi_trace_core.run.batch.results import Attempt, BatchResult, TrialResult
from envoi_trace_core.run.batch.running import BatchRun, BatchStop
from envoi_trace_core.run.batch.stored import attempt_number
from envoi_trace_core.run.config import RunConfig
from envoi_trace_core.run.outcome import RunOutcome
from envoi_trace_core.run.stop import StopRequest
from envoi_trace_core.trace.fold import TraceState

pytestmark = pytest.mark.anyio


def outcome(config, reason="solved", *, parts=3, cost_usd=None, message=None):
    return RunOutcome(
        trajectory_id=config.trajectory_id, reason=reason, message=message, parts=parts, turns=1, solved_paths=1,
        total_paths=1, final_commit=None, trace_uri="", bundle_uri="", token_usage=TokenUsage(), cost_usd=cost_usd,
        best_share=1.0,
    )  # fmt: skip


@attrs.define
class Scripted:
    """Ends each trajectory as `ends` says: by its id's end a reason, an error, or something to call."""

    ends: dict = attrs.field(factory=dict)
    launched: list = attrs.field(factory=list)
    running: int = 0
    most: int = 0

    async def launch(self, config, *, observer, stop, detach):
        self.launched.append(config.trajectory_id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(0.02)  # so that the others come as far
            for end in (value for key, value in self.ends.items() if config.trajectory_id.endswith(key)):
                if isinstance(end, Exception):
                    raise end
                return await end(config, observer, stop) if callable(end) else outcome(config, end)
            return None if detach else outcome(config)
        finally:
            self.running -= 1


@attrs.define
class Told:
    lines: list = attrs.field(factory=list)

    def started(self, trajectory_id, *, goes_on):
        self.lines.append(f"{trajectory_id} {goes_on}")

    def note(self, trajectory_id, line):
        self.lines.append(f"{trajectory_id} {line}")

    def ended(self, result):
        self.lines.append(f"{result.cell}.t{result.trial} {result.status}")


def batch_of(*cells, **changes):
    base = RunConfig(
        trajectory_id="", task="/t", environment="/e", agent="script", sandbox="local", storage="local",
        restart_delay_s=0.0,
    )  # fmt: skip
    return Batch(**{"name": "b", "cells": [Cell(name=name, config=base) for name in cells or ("c",)], **changes})


async def run(tmp_path, batch, launcher, *, stop=None, detach=False):
    progress = Progress.of(batch)
    batch_run = BatchRun(
        batch=batch, launcher=launcher, storage=LocalStorage(tmp_path), observer=Told(), stop=stop or BatchStop(),
        progress=progress, detach=detach,
    )  # fmt: skip
    return await batch_run.run(), progress


async def test_so_many_at_once_and_each_once(tmp_path):
    launcher = Scripted()
    result, progress = await run(tmp_path, batch_of("c", "d", trials=10, concurrency=3), launcher)
    assert launcher.most == 3
    assert len(set(launcher.launched)) == len(launcher.launched) == 20
    assert set(launcher.launched[:3]) == {"b.c.t1", "b.d.t1", "b.c.t2"}
    assert (result.count("ended"), result.exit_status()) == (20, 0)
    assert (progress.cells["c"].ended, progress.cells["c"].solved, progress.cells["c"].parts) == (10, 10, 30)
    assert progress.cells["c"].waiting == 0


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["solved", "part_limit", "timeout", "stalled"], 0),
        (["solved", "agent_error"], 3),
        (["agent_error", "envoi_error"], 4),
        (["envoi_error", "infrastructure_error", "agent_error"], 5),
    ],
)
async def test_the_exit_status_is_the_worst(tmp_path, reasons, expected):
    launcher = Scripted({f".t{number}": reason for number, reason in enumerate(reasons, 1)})
    result, _ = await run(tmp_path, batch_of(trials=len(reasons), retries=0), launcher)
    assert result.exit_status() == expected
    assert result.exit_status(fail_under=1.0) == expected


async def test_one_that_fails_with_any_error_takes_no_other_with_it(tmp_path):
    launcher = Scripted({".t1": ValueError("a fault"), ".t2": StorageError("no store"), ".t3": UsageError("not so")})
    result, progress = await run(tmp_path, batch_of(trials=5, retries=0, concurrency=5), launcher)
    by_trial = {trial.trial: trial for trial in result.trials}
    assert by_trial[1].last.message == "ValueError: a fault"
    assert by_trial[2].last.message == "no store"
    assert (by_trial[3].status, by_trial[3].message) == ("refused", "not so")
    assert (by_trial[4].is_solved, by_trial[5].is_solved) == (True, True)
    assert result.exit_status() == 5
    assert (progress.cells["c"].failed, progress.cells["c"].left) == (2, 1)


async def test_infrastructure_is_retried_so_often_and_an_agents_failure_never(tmp_path):
    launcher = Scripted({".t1": "infrastructure_error", "t1.a2": "envoi_error", "t2": "agent_error"})
    result, progress = await run(tmp_path, batch_of(trials=2, retries=2, concurrency=1), launcher)
    assert launcher.launched == ["b.c.t1", "b.c.t1.a2", "b.c.t1.a3", "b.c.t2"]
    assert [attempt.reason for attempt in result.trials[0].attempts] == [
        "infrastructure_error", "envoi_error", "solved",
    ]  # fmt: skip
    assert (progress.cells["c"].infrastructure_failures, progress.cells["c"].failed) == (2, 1)
    assert result.exit_status() == 3


async def test_refused_trials_alone_are_wrong_use(tmp_path):
    result, _ = await run(tmp_path, batch_of(trials=2), Scripted({".t1": UsageError("x"), ".t2": UsageError("x")}))
    assert result.exit_status() == 2
    result, _ = await run(tmp_path, batch_of(trials=2), Scripted({".t1": UsageError("x")}))
    assert result.exit_status() == 1


async def test_detached_ones_go_on_elsewhere(tmp_path):
    result, progress = await run(tmp_path, batch_of(trials=3), Scripted(), detach=True)
    assert (result.count("detached"), result.exit_status()) == (3, 0)
    assert [trial.last.trajectory_id for trial in result.trials] == ["b.c.t1", "b.c.t2", "b.c.t3"]
    assert progress.cells["c"].left == 3


async def test_an_interrupt_reaches_all_that_run_and_no_other_starts(tmp_path):
    stop = BatchStop()

    async def until_stopped(config, _observer, signal):
        if len(launcher.launched) == 2:
            stop.ask(StopRequest(reason="interrupted", exit_status=143))
        await signal.wait_interrupted()
        if config.trajectory_id.endswith("2"):
            raise InterruptedRunError("ended", exit_status=143)
        return outcome(config, "interrupted")

    launcher = Scripted({"": until_stopped})
    with anyio.fail_after(10):
        result, _ = await run(tmp_path, batch_of(trials=6, concurrency=2), launcher, stop=stop)
    assert len(launcher.launched) == 2
    assert (result.count("interrupted"), result.count("not started")) == (2, 4)
    assert result.exit_status() == 143


async def test_what_runs_now_counts_against_the_budget(tmp_path):
    """The third trial is refused while the first, which has spent it all, still runs."""
    all_is_spent, third_was_refused = anyio.Event(), anyio.Event()

    def spend(config, observer, cost_usd):
        state = TraceState(total_cost_usd=cost_usd)
        observer.fact(UsageRecorded(part=1, event_index=1, draft_ordinal=0, usage=None, cost_usd=cost_usd), state)

    async def first(config, observer, _stop):
        spend(config, observer, 5.0)
        all_is_spent.set()
        with anyio.fail_after(10):
            await third_was_refused.wait()
        return outcome(config, cost_usd=5.0)

    async def second(config, _observer, _stop):
        with anyio.fail_after(10):
            await all_is_spent.wait()
        return outcome(config)

    launcher = Scripted({".t1": first, ".t2": second})
    batch = batch_of(trials=3, concurrency=2, max_total_cost_usd=5.0)
    progress = Progress.of(batch)

    class Watching(Told):
        def ended(self, result):
            if result.status == "not started":
                third_was_refused.set()

    batch_run = BatchRun(
        batch=batch, launcher=launcher, storage=LocalStorage(tmp_path), observer=Watching(), stop=BatchStop(),
        progress=progress,
    )  # fmt: skip
    result = await batch_run.run()
    assert sorted(launcher.launched) == ["b.c.t1", "b.c.t2"]
    assert result.count("not started") == 1
    assert "total cost budget of $5" in result.trials[2].message
    assert (result.cost_usd, result.exit_status()) == (5.0, 0)
    assert progress.cells["c"].cost_usd == 5.0, "what was told as facts is not counted again at the end"


async def test_a_finished_trajectory_leaves_nothing_behind(tmp_path):
    alive = []

    async def big(config, observer, stop):
        state = TraceState()
        alive.append(weakref.ref(stop))
        alive.append(weakref.ref(observer))
        observer.fact(UsageRecorded(part=1, event_index=1, draft_ordinal=0, usage=None, cost_usd=0.1), state)
        return outcome(config)

    stop = BatchStop()
    result, progress = await run(tmp_path, batch_of(trials=5, concurrency=2), Scripted({"": big}), stop=stop)
    gc.collect()
    assert len(alive) == 10
    assert result.count("ended") == progress.cells["c"].ended == 5
    assert not [found for reference in alive if (found := reference()) is not None]
    assert not stop.interrupted


def test_below_the_wanted_share(tmp_path):
    attempt = Attempt(trajectory_id="b.c.t1", number=1, reason="part_limit", best_share=0.4)
    result = BatchResult(name="b", trials=[TrialResult(cell="c", trial=1, status="ended", attempts=(attempt,))])
    assert (result.exit_status(fail_under=0.5), result.exit_status(fail_under=0.4)) == (6, 0)


def test_names_and_numbers():
    assert [attempt_number(f"b.c{end}") for end in (".t1", ".t1.a2", ".a3.t1", ".t1.a12")] == [1, 2, 1, 12]
    names = Counter(check_batch_name(new_batch_name()) for _ in range(50))
    assert len(names) > 40
    for wrong in ("", "-a", "a.b", "a/b", "a" * 41):
        with pytest.raises(UsageError):
            check_batch_name(wrong)


def test_ids_that_are_too_long_are_refused_before_anything_starts():
    trial = Trial(cell=Cell(name="c" * 72, config=batch_of().cells[0].config), number=99999)
    longest = batch_of(name="b" * 40).trajectory_id(trial, 99)
    assert len(longest) <= 128


def test_a_total_budget_needs_a_price(tmp_path):
    from envoi_trace_core.plugins import Plugins

    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "main.py").write_text("")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "en.md").write_text("Do.")
    (tmp_path / "task" / "script.jsonl").write_text('{"text": "a"}\n')
    config = attrs.evolve(batch_of().cells[0].config, task=str(tmp_path / "task"), environment=str(tmp_path / "env"))
    batch = batch_of(cells=[Cell(name="c", config=config)], max_total_cost_usd=1.0)
    plugins = Plugins.load()
    free = attrs.evolve(
        plugins,
        installed=tuple(
            attrs.evolve(plugin, spec=attrs.evolve(plugin.spec, reports_cost=False))
            if (plugin.kind, plugin.name) == ("agent", "script") else plugin
            for plugin in plugins.installed
        ),
    )  # fmt: skip
    check_batch(batch, plugins)
    with pytest.raises(UsageError, match=r"plan\.toml: cell c: --max-total-cost-usd needs a price"):
        check_batch(batch, free, source="plan.toml")


def test_the_bound_on_open_files_grows_with_what_runs_at_once():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        allow_open_files(2)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == FILES_BESIDE + 2 * FILES_A_TRAJECTORY
        allow_open_files(1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == FILES_BESIDE + 2 * FILES_A_TRAJECTORY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
