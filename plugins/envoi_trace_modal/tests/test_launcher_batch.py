"""Many trajectories whose orchestrators run on Modal, by the real command against the control plane of the tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test folders are no packages

from launcher_kit import Bench, control_plane, make_bench, s3_server, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with s3_server() as url, control_plane(tmp_path / "modal") as plane:
        made = make_bench(tmp_path / "user", plane, url)
        made.script({"text": "begins"}, {"write": "a.txt", "content": "1"})
        yield made
        made.close()


def trials(bench: Bench, *options: str) -> Any:
    done = bench.cli(
        "--agent", "script", "--sandbox", bench.sandbox, "--task", str(bench.task), "--env", str(bench.root / "env"),
        "--trials", "3", "--concurrency", "2", "--batch", "b", "--max-turns", "1", "--no-auto-resume", "--json",
        *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_spawned_ones_end_in_the_bucket_and_the_same_command_finds_them_there(bench: Bench) -> None:
    told = trials(bench, "--detach")
    ids = [trial["attempts"][0]["trajectory_id"] for trial in told["cells"][0]["trials"]]
    assert (told["detached"], len(set(ids))) == (3, 3)
    calls = bench.plane.functions.calls
    wait_until(lambda: len(calls) == 3 and all(call.result is not None for call in calls.values()))
    again = trials(bench, "--detach")
    assert (again["ended_before"], again["parts"], len(calls)) == (3, 6, 3)
    assert {f"trajectories/{name}/repo.bundle" for name in ids} <= bench.objects().keys()


def test_followed_ones_are_told_of_to_their_end(bench: Bench) -> None:
    told = trials(bench, "--launcher", "modal")
    assert (told["ended"], told["parts"], told["detached"]) == (3, 6, 0)
    assert len(bench.plane.functions.calls) == 3
