"""The orchestrator on Modal, by the real command, against a control plane that runs the function for real."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from envoi_trace_modal.launcher.engine import FIRST_ANSWER_S
from grpclib import GRPCError, Status

from envoi_trace_core.errors import StorageError

sys.path.insert(0, str(Path(__file__).parent))  # test folders are no packages

from launcher_kit import CANARY, Bench, Plane, control_plane, make_bench, rows_of, s3_server, wait_until

pytestmark = pytest.mark.timeout(400)  # several programs in a row, each of which starts in seconds on a busy machine

WRITES = ({"text": "begins"}, {"write": "a.txt", "content": "1"}, {"run": "echo hello"})
FIRST_PARTS = ("--max-parts", "3", "--no-auto-resume")


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path / "modal") as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path, plane: Plane, s3_url: str) -> Iterator[Bench]:
    made = make_bench(tmp_path / "user", plane, s3_url)
    made.script(*WRITES)
    yield made
    made.close()


def end_of(bench: Bench) -> Any:
    bench.plane.the_call()
    wait_until(lambda: bench.plane.the_call().result is not None)
    return bench.plane.the_call().result


def left_over(plane: Plane) -> list[str]:
    """What a launch that failed must not leave."""
    return [*plane.functions.calls, *(secret.name for secret in plane.functions.secrets.values())]


# -- detached -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_detached_run_ends_with_its_artifacts_in_the_bucket(bench: Bench, plane: Plane) -> None:
    plane.functions.may_start = False
    (bench.task / "noise").write_bytes(os.urandom(20_000))  # so much goes the way of large arguments
    inner = bench.task / "inner"
    inner.mkdir()
    done = bench.run("--detach", *FIRST_PARTS, "--task", f"{inner}/..")
    assert done.returncode == 0, done.stderr
    assert "TRAJECTORY_ID: t1\n" in done.stdout
    assert f"call {plane.the_call().id}" in done.stderr
    bench.task.rename(bench.root / "moved")  # what the run works on travelled with it
    (bench.root / "env").rename(bench.root / "moved-env")
    assert plane.functions.blobs
    secrets = list(plane.functions.secrets.values())
    assert [secret.variables["AWS_SECRET_ACCESS_KEY"] for secret in secrets] == [CANARY]
    plane.functions.may_start = True

    assert b"part_limit" in end_of(bench).data
    objects = bench.objects()
    assert {"trajectories/t1/trace.parquet", "trajectories/t1/repo.bundle", "trajectories/t1/events.jsonl.zst"} <= {
        *objects
    }
    assert [row["part_type"] for row in rows_of(bench)] == ["text", "patch", "tool"]
    assert rows_of(bench)[0]["task"] == "task"
    assert not plane.functions.secrets
    call = plane.the_call()
    definition = call.function.definition
    everywhere = [
        call.arguments, definition.SerializeToString(), call.output.encode(), call.result.SerializeToString(),
        done.stdout.encode(), done.stderr.encode(), "\n".join(plane.image_commands).encode(), *objects.values(),
        *plane.functions.blobs.values(),
    ]  # fmt: skip
    assert not [text for text in everywhere if CANARY.encode() in text]
    assert (definition.timeout_secs, definition.single_use_containers) == (24 * 3600, True)
    assert definition.scheduler_placement.nonpreemptible
    assert definition.retry_policy.retries == 3
    commands = "\n".join(plane.image_commands)
    assert f"envoi_trace-{version('envoi-trace')}-py3-none-any.whl" in commands
    assert f"envoi_trace_s3-{version('envoi-trace-s3')}-py3-none-any.whl" in commands
    assert f"boto3=={version('boto3')}" in commands

    for words in (["status", "t1", "--json"], ["logs", "t1", "--follow"], ["show", "t1"]):
        asked = bench.cli(*words)
        assert asked.returncode == 0, asked.stderr
        assert "part_limit" in asked.stdout


@pytest.mark.slow
def test_a_preempted_run_goes_on_and_ends_the_same(bench: Bench, plane: Plane) -> None:
    bench.script(*WRITES, {"sleep": 3}, {"write": "b.txt", "content": "2"}, {"text": "ends"})
    assert bench.run("--detach", "--preemptible", "--max-parts", "5", "--no-auto-resume").returncode == 0
    call = plane.the_call()
    assert not call.function.definition.scheduler_placement.nonpreemptible
    wait_until(lambda: len(rows_of(bench)) >= 3)
    plane.functions.preempt(call)
    assert b"part_limit" in end_of(bench).data
    assert len(call.containers) == 2
    rows = rows_of(bench)
    assert [(row["part"], row["part_type"]) for row in rows] == [
        (1, "text"), (2, "patch"), (3, "tool"), (4, "patch"), (5, "text"),
    ]  # fmt: skip
    assert rows[-1]["session_end_reason"] == "part_limit"
    assert "goes on with what is recorded" in call.output
    assert not plane.functions.secrets


@pytest.mark.slow
def test_a_detached_run_is_stopped_from_any_terminal(bench: Bench, plane: Plane) -> None:
    bench.script(*WRITES, {"sleep": 100})
    assert bench.run("--detach", "--json").stdout == '{"trajectory_id": "t1", "detached": true}\n'
    wait_until(lambda: len(rows_of(bench)) >= 3)
    again = bench.run("--detach")
    assert again.returncode == 2
    assert "trajectory t1 is being run by" in again.stderr
    stopped = bench.cli("stop", "t1")
    assert stopped.returncode == 0, stopped.stderr
    assert b"interrupted" in end_of(bench).data
    assert rows_of(bench)[-1]["session_end_reason"] == "interrupted"
    assert not plane.functions.secrets


# -- followed -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "status", "reason", "options"),
    [({"text": "x"}, 0, "part_limit", ()), ({"fail": "no"}, 3, "agent_error", ("--quiet",))],
)
def test_a_followed_run_gives_its_exit_status(
    bench: Bench, plane: Plane, last: dict[str, str], status: int, reason: str, options: tuple[str, ...]
) -> None:
    bench.script(*WRITES, last)
    done = bench.run("--launcher", "modal", "--max-parts", "4", "--no-auto-resume", "--json", *options)
    assert done.returncode == status, done.stderr
    assert json.loads(done.stdout)["reason"] == reason
    assert ("$ echo hello" in done.stderr) == (not options)
    assert not plane.functions.secrets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("out of luck"), 5, "the run's function failed: RuntimeError: out of luck"),
        (StorageError("the bucket is gone", mend="make it"), 1, "error: the bucket is gone"),
    ],
)
def test_a_function_that_fails_for_good(bench: Bench, plane: Plane, error: Exception, status: int, words: str) -> None:
    plane.functions.raises = error
    done = bench.run("--launcher", "modal", "--launcher-opt", "max_retries=1")
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert not plane.functions.secrets


@pytest.mark.slow
def test_the_same_versions_are_deployed_once(bench: Bench, plane: Plane) -> None:
    assert bench.run("--detach").returncode == 0
    assert bench.run("--detach", "--trajectory-id", "t2").returncode == 0
    # The name tells versions apart: of a checkout that is edited in between there are two.
    names = {app.name for app in plane.functions.apps.values()}
    assert plane.calls.count("AppPublish") == len(names)
    assert len(plane.functions.calls) == 2


@pytest.mark.slow
def test_many_at_once_are_deployed_once(bench: Bench, plane: Plane) -> None:
    options = ("--trials", "3", "--concurrency", "3", "--batch", "b", "--launcher", "modal", *FIRST_PARTS, "--json")
    where = ("--sandbox", "near", "--task", str(bench.task), "--env", str(bench.root / "env"))
    done = bench.cli("--agent", "script", *where, *options)
    assert done.returncode == 0, done.stderr
    assert plane.calls.count("AppPublish") == 1
    assert len(plane.functions.calls) == 3
    assert len([key for key in bench.objects() if key.endswith("trace.parquet")]) == 3
    assert not plane.functions.secrets


@pytest.mark.slow
def test_ctrl_c_ends_the_run_as_it_ends_a_local_one(bench: Bench, plane: Plane) -> None:
    bench.script(*WRITES, {"sleep": 100})
    process = bench.start("--launcher", "modal")
    wait_until(lambda: len(rows_of(bench)) >= 3)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "interrupted" in stdout
    assert rows_of(bench)[-1]["session_end_reason"] == "interrupted"
    assert not plane.functions.secrets


@pytest.mark.slow
def test_ctrl_c_before_the_run_began_leaves_nothing(bench: Bench, plane: Plane) -> None:
    plane.functions.may_start = False
    process = bench.start("--launcher", "modal")
    wait_until(lambda: plane.functions.calls)
    wait_until(lambda: "FunctionGetOutputs" in plane.calls)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 143, stderr
    assert plane.the_call().result is not None
    assert not plane.functions.secrets
    assert not bench.objects()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["FunctionMap", "SecretGetOrCreate", "FunctionCreate"])
def test_ctrl_c_in_the_middle_of_a_launch_leaves_nothing(bench: Bench, plane: Plane, where: str) -> None:
    plane.delays_s[where] = 2.0
    plane.functions.may_start = False
    process = bench.start("--detach")
    wait_until(lambda: where in plane.calls)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert "ended before the run was started" in stderr
    wait_until(lambda: all(call.result is not None for call in plane.functions.calls.values()))
    assert not plane.functions.secrets


@pytest.mark.slow
def test_signals_that_modal_sends(bench: Bench, plane: Plane) -> None:
    """SIGINT comes before the machine is taken away, and ends nothing; SIGUSR1 cancels the input."""
    bench.script(*WRITES, {"sleep": 3}, {"text": "goes on"}, {"sleep": 100})
    assert bench.run("--detach").returncode == 0
    call = plane.the_call()
    wait_until(lambda: len(rows_of(bench)) >= 3)
    assert call.process is not None
    call.process.send_signal(signal.SIGINT)
    wait_until(lambda: len(rows_of(bench)) >= 4)
    assert rows_of(bench)[-1]["session_end_reason"] is None
    call.process.send_signal(signal.SIGUSR1)
    assert b"interrupted" in end_of(bench).data
    assert rows_of(bench)[-1]["session_end_reason"] == "interrupted"
    assert "this machine is being taken away" in call.output
    assert not plane.functions.secrets


@pytest.mark.slow
def test_a_container_that_dies_is_started_again(bench: Bench, plane: Plane) -> None:
    bench.script(*WRITES, {"sleep": 3}, {"text": "ends"})
    assert bench.run("--detach", "--max-parts", "4").returncode == 0
    call = plane.the_call()
    wait_until(lambda: len(rows_of(bench)) >= 2)
    assert call.process is not None
    call.process.kill()
    assert b"part_limit" in end_of(bench).data
    assert len(rows_of(bench)) == 4
    assert not plane.functions.secrets


# -- what can't be --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["storage", "sandbox"])
def test_what_is_local_is_refused(bench: Bench, plane: Plane, what: str) -> None:
    done = bench.run("--detach", f"--{what}", "local")
    assert done.returncode == 2
    assert f"can't use the local {what}" in done.stderr
    assert not plane.calls


def test_a_wrong_option_is_said_before_anything_starts(bench: Bench, plane: Plane) -> None:
    (bench.task / "script.jsonl").unlink()
    done = bench.run("--detach")
    assert done.returncode == 2
    assert "script.jsonl" in done.stderr
    assert not plane.calls


def test_a_folder_that_can_not_travel_is_said(bench: Bench, plane: Plane) -> None:
    (bench.task / "out").symlink_to("/etc")
    done = bench.run("--detach")
    assert done.returncode == 2
    assert "leads out of the folder" in done.stderr
    assert not plane.calls


def test_a_wrong_token(bench: Bench, plane: Plane) -> None:
    plane.faults["ClientHello"] = [GRPCError(Status.UNAUTHENTICATED, "Token ID is malformed")] * 9
    plane.faults["FunctionGet"] = [GRPCError(Status.UNAUTHENTICATED, "Token ID is malformed")] * 9
    done = bench.run("--detach", "--quiet")
    assert done.returncode == 2
    assert "Token ID is malformed" in done.stderr
    assert "modal setup" in done.stderr
    assert "as-fake" not in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert not left_over(plane)


def test_no_token(bench: Bench, plane: Plane) -> None:
    done = bench.run("--detach", "--quiet", MODAL_TOKEN_ID="", MODAL_TOKEN_SECRET="")
    assert done.returncode == 2
    assert "modal setup" in done.stderr
    assert not left_over(plane)


@pytest.mark.slow
def test_an_unreachable_control_plane(bench: Bench, plane: Plane) -> None:
    began_at = time.monotonic()
    done = bench.run("--detach", "--quiet", MODAL_SERVER_URL="http://127.0.0.1:1")
    assert done.returncode == 5
    assert "Modal did not answer" in done.stderr or "Modal failed" in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert FIRST_ANSWER_S <= 30
    assert time.monotonic() - began_at < FIRST_ANSWER_S + 60  # and the start of the program
    assert not left_over(plane)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("max_retries=-1", "retries"),
        ("app=no name", "Invalid App name"),
        ("cpu=-3", "out of range"),
        ("cpus=3", "Did you mean"),
    ],
)
def test_what_modal_refuses_is_said_in_its_words(bench: Bench, plane: Plane, option: str, words: str) -> None:
    done = bench.run("--detach", "--quiet", "--launcher-opt", option)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "envoi-trace plugins show modal" in done.stderr
    assert not left_over(plane)


def test_an_image_that_can_not_be_built(bench: Bench, plane: Plane) -> None:
    plane.image_error = "no matching distribution found for envoi-trace"
    done = bench.run("--detach", "--quiet")
    assert done.returncode == 5
    assert "the image of the orchestrator can't be built: " in done.stderr
    assert "index_url" in done.stderr
    assert not left_over(plane)


@pytest.mark.parametrize("where", ["FunctionCreate", "FunctionMap", "FunctionBindParams"])
def test_a_launch_that_fails_halfway_leaves_no_secret(bench: Bench, plane: Plane, where: str) -> None:
    plane.faults[where] = [GRPCError(Status.PERMISSION_DENIED, "the workspace is over its budget")]
    done = bench.run("--detach", "--quiet")
    assert done.returncode == 2
    assert "over its budget" in done.stderr
    assert CANARY not in done.stderr
    assert not left_over(plane)
