"""The orchestrator and its sandboxes on one Modal: what a run is there for."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test folders are no packages

from launcher_kit import CANARY, Bench, make_bench, rows_of, s3_server, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="the fake needs bubblewrap"),
]

ACTIONS = (
    {"text": "begins"}, {"write": "a.txt", "content": "1"}, {"run": "cat a.txt"}, {"run": "sleep 8; echo slept"},
    {"write": "b.txt", "content": "2"}, {"text": "ends"},
)  # fmt: skip
BY_THE_END = [("text", None), ("patch", None), ("tool", 0), ("tool", 0), ("patch", None), ("text", None)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    pytest.importorskip("modal_fake.control_plane")
    from launching_modal import LaunchingModal

    with s3_server() as s3_url, LaunchingModal(tmp_path / "modal") as fake:
        made = make_bench(tmp_path / "user", fake, s3_url)
        made.script(*ACTIONS)
        made.sandbox = "modal"
        yield made
        made.close()


def end_of(bench: Bench) -> Any:
    call = bench.plane.the_call()
    wait_until(lambda: call.result is not None, timeout_s=200)
    return call.result


@pytest.mark.parametrize("preempted", [False, True])
def test_a_detached_run_with_its_sandboxes(bench: Bench, preempted: bool) -> None:
    fake = bench.plane
    done = bench.run("--detach", "--max-parts", "6", "--no-auto-resume")
    assert done.returncode == 0, done.stderr
    call = fake.the_call()
    if preempted:
        wait_until(lambda: len(rows_of(bench)) >= 3)
        before = set(fake.live())
        fake.functions.preempt(call)
    assert b"part_limit" in end_of(bench).data, call.output
    rows = rows_of(bench)
    assert [(row["part_type"], row["tool_exit_code"]) for row in rows] == BY_THE_END
    assert [row["part"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["session_end_reason"] == "part_limit"
    assert "slept" in rows[3]["tool_output"]
    assert len(call.containers) == 1 + preempted
    if preempted:  # the agent went on in the sandbox that it had: nobody made another one
        assert before == set(fake.state.sandboxes)
    assert not fake.live()
    assert not fake.functions.secrets
    everywhere = [
        call.arguments, call.output.encode(), done.stdout.encode(), done.stderr.encode(), *bench.objects().values(),
        *fake.functions.blobs.values(), repr(fake.state.built).encode(),
    ]  # fmt: skip
    for canary in (CANARY, fake.state.token[1]):
        assert not [text for text in everywhere if canary.encode() in text]
