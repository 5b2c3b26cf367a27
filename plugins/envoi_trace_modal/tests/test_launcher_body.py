"""What runs on Modal, without Modal: how it starts again, and what it tells."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import attrs
import pytest
from envoi_trace_modal.launcher import body, engine
from envoi_trace_modal.launcher.body import START_TOLERANCE_S, timeout_left_s, wait_for_lease
from envoi_trace_modal.launcher.job import Job, Report

from envoi_trace_core.builtin.local_storage import LocalStorage
from envoi_trace_core.domain.parts import TokenUsage
from envoi_trace_core.errors import PluginError, SandboxError, StorageError, UsageError
from envoi_trace_core.protocols import Storage
from envoi_trace_core.run.observer import SilentObserver
from envoi_trace_core.run.outcome import RunOutcome
from envoi_trace_core.trace import lease
from envoi_trace_core.trace.convert_facts import value_to_json
from envoi_trace_core.trace.keys import lease_key
from envoi_trace_core.trace.lease import LeaseHolder

JOB = Job(
    config="{}", task_hash="a", environment_hash="b", secret="s", modal_environment=None, launched_at=datetime.now(UTC)
)


# -- what travels back ----------------------------------------------------------------------------


def test_a_job_arrives() -> None:
    assert Job.from_json(JOB.to_json()) == JOB


def test_an_outcome_arrives() -> None:
    outcome = RunOutcome(
        trajectory_id="t", reason="solved", message=None, parts=1, turns=1, solved_paths=1, total_paths=1,
        final_commit="c", trace_uri="s3://b/t", bundle_uri="s3://b/r", token_usage=TokenUsage(input=3), cost_usd=0.5,
        unsaved=("why",),
    )  # fmt: skip
    assert Report.from_json(Report(outcome=outcome).to_json()).unwrap() == outcome


@pytest.mark.parametrize("kind", [UsageError, StorageError, PluginError])
def test_an_error_arrives_as_what_it_was(kind: type[UsageError]) -> None:
    report = Report.from_json(Report.of(kind("why", mend="so")).to_json())
    with pytest.raises(kind, match="why") as caught:
        report.unwrap()
    assert caught.value.mend == "so"


@pytest.mark.parametrize("text", ["", "{", '"x"', '{"outcome": 3}', '{"other": 1}'])
def test_what_is_no_report_is_an_error(text: str) -> None:
    with pytest.raises(SandboxError, match="can't be read"):
        Report.from_json(text)


# -- starting again -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passed_s", "left_s"),
    [(0, 1000), (START_TOLERANCE_S - 10, 1000), (START_TOLERANCE_S + 400, 600), (START_TOLERANCE_S + 9999, 0)],
)
def test_the_timeout_counts_over_all_starts(passed_s: float, left_s: float) -> None:
    job = attrs.evolve(JOB, launched_at=datetime.now(UTC) - timedelta(seconds=passed_s))
    assert timeout_left_s(1000, job) == pytest.approx(left_s, abs=5)


def holder(*, age_s: float = 0.0) -> LeaseHolder:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    return LeaseHolder(nonce="n", host="gone", machine="another", pid=1, pid_started="", started_at=at, heartbeat_at=at)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path)


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LEASE_POLL_S", 0.1)


@attrs.define
class Notes(SilentObserver):
    lines: list[str] = attrs.field(factory=list)

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.anyio
async def test_nobody_holds_it(storage: Storage) -> None:
    notes = Notes()
    with anyio.fail_after(10):
        await wait_for_lease(storage, "t", notes)
    assert not notes.lines


@pytest.mark.anyio
async def test_the_lease_of_a_machine_that_is_gone_is_waited_for(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALENESS_S", 0.6)
    await storage.put(lease_key("t"), value_to_json(holder()).encode())
    notes, began_at = Notes(), time.monotonic()
    with anyio.fail_after(30):
        await wait_for_lease(storage, "t", notes)
    assert time.monotonic() - began_at >= 0.5
    assert "waiting to see whether it still lives" in notes.lines[0]


@pytest.mark.anyio
@pytest.mark.parametrize("change", ["heartbeat", "release"])
async def test_a_holder_that_lives_is_not_waited_for(
    storage: Storage, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALENESS_S", 1000.0)
    first = holder(age_s=5)
    await storage.put(lease_key("t"), value_to_json(first).encode())

    async def live() -> None:
        await anyio.sleep(0.3)
        if change == "release":
            await storage.delete(lease_key("t"))
        else:
            later = attrs.evolve(first, heartbeat_at=datetime.now(UTC))
            await storage.put(lease_key("t"), value_to_json(later).encode())

    with anyio.fail_after(60):  # far below the staleness
        async with anyio.create_task_group() as group:
            group.start_soon(live)
            await wait_for_lease(storage, "t", Notes())


# -- secrets that nobody took away ----------------------------------------------------------------


def test_only_our_own_secrets_that_are_over_are_taken_away() -> None:
    now = time.time()
    name: Callable[[float], str] = lambda ends: f"{engine.SECRET_PREFIX}00ff-{int(ends)}"  # noqa: E731
    assert engine.is_over(name(now - 1), now)
    assert not engine.is_over(name(now + 60), now)
    for other in ("openai-1", "envoi-trace-run-", "envoi-trace-run-00ff-x", "my-envoi-trace-run-00ff-1"):
        assert not engine.is_over(other, now)


def test_the_plugin_imports_nothing_heavy() -> None:
    program = (
        "import sys, envoi_trace_modal.plugin, envoi_trace_modal.launcher.body\n"
        "print(*{'modal', 'anyio', 'cattrs', 'pyarrow', 'boto3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
