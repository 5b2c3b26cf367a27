"""Runs one submission's tests. A program in the evaluation sandbox: standard library only, one JSON line as its answer.

    runner.py port                             {"port": N}, one that is free now
    runner.py schema PORT DEADLINE_S           {"schema": {...}} of the runtime, or {"error": text}
    runner.py test <<< one JSON line with the request, then the submission's tar.gz

It speaks the runtime's HTTP interface itself: the SDK's client turns a status into text, and it is the status that
tells a failed build (500 of POST /session) from a test that failed and from a runtime that is gone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import time
import urllib.parse
from typing import Any

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_DETAIL_CHARS = 6000
MAX_ALL_DETAILS_CHARS = 400_000
MAX_ERROR_CHARS = 4000
MAX_BUILD_CHARS = 20_000
MAX_COUNT = 1_000_000_000
MAX_DEPTH = 60


class RuntimeLostError(Exception):
    """The runtime does not answer any more."""


class DeadlineError(Exception):
    """The time is over."""


class Runtime:
    """The envoi runtime on this machine."""

    def __init__(self, port: int, deadline: float) -> None:
        self.port = port
        self.deadline = deadline

    def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "") -> tuple[int, Any]:
        """One request: the status, and the answer's JSON (its text when it is none)."""
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineError
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=left_s)
        try:
            headers = {"Content-Type": content_type} if content_type else {}
            connection.request(method, path, body=body or None, headers=headers)
            response = connection.getresponse()
            data = response.read(MAX_BODY_BYTES + 1)
        except socket.timeout as error:  # noqa: UP041 (an alias since 3.10)
            raise DeadlineError from error
        except (OSError, http.client.HTTPException) as error:
            raise RuntimeLostError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if len(data) > MAX_BODY_BYTES:
            return response.status, {"error": f"the environment's answer is larger than {MAX_BODY_BYTES} bytes"}
        try:
            return response.status, json.loads(data)
        except (ValueError, RecursionError):
            return response.status, data.decode("utf-8", "replace")


def run_tests(request: dict[str, Any], archive: bytes) -> dict[str, Any]:
    """Run what was asked for. The answer's form is what `results.py` reads."""
    deadline = time.monotonic() + float(request["timeout_s"])
    runtime = Runtime(int(request["port"]), deadline)
    try:
        if not request["requires_session"]:
            return _ask_all(runtime, request, "/test", _upload(archive, {}))
        fields = {"timeout": str(int(float(request["timeout_s"])) + 60)}
        try:
            status, answer = runtime.ask("POST", "/session", *_upload(archive, fields))
        except DeadlineError:
            return {"status": "build_failed", "error": f"The build did not end within {request['timeout_s']:.0f} s."}
        session = answer.get("session_id") if isinstance(answer, dict) else None
        if status != 200 or not isinstance(session, str):
            return {"status": "build_failed", "error": _cut(_error_of(answer) or f"status {status}", MAX_BUILD_CHARS)}
        try:
            return _ask_all(runtime, request, f"/session/{session}/test", (b"", ""))
        finally:
            _end(runtime, session)
    except RuntimeLostError as error:
        return {"status": "runtime_lost", "error": str(error)[:MAX_ERROR_CHARS]}


def _end(runtime: Runtime, session: str) -> None:
    runtime.deadline = time.monotonic() + 40
    with contextlib.suppress(RuntimeLostError, DeadlineError):  # the results stand; the session times out by itself
        runtime.ask("DELETE", f"/session/{session}")


def _ask_all(runtime: Runtime, request: dict[str, Any], base: str, body: tuple[bytes, str]) -> dict[str, Any]:
    results = []
    room = MAX_ALL_DETAILS_CHARS
    for asked in request["requests"]:
        for leaf, value in _ask_one(runtime, base, asked, body, request["timeout_s"]):
            passed, failed, error = count_result(value)
            detail = "" if error is None and not failed else _detail(value)[: max(room, 0)]
            room -= len(detail)
            results.append({"path": leaf, "passed": passed, "failed": failed, "error": error, "detail": detail})
    return {"status": "completed", "results": results}


def _ask_one(
    runtime: Runtime, base: str, asked: dict[str, Any], body: tuple[bytes, str], timeout_s: float
) -> list[tuple[str, Any]]:
    """The value of each leaf that one request runs."""
    path, leaves = asked["path"], asked["leaves"]
    url = f"{base}/{urllib.parse.quote(path)}" if path else base
    try:
        status, answer = runtime.ask("POST", url, *body)
    except DeadlineError:
        return [(leaf, {"error": f"The tests did not end within {timeout_s:.0f} s."}) for leaf in leaves]
    if status != 200:
        error = {"error": _error_of(answer) or f"status {status}"}
        return [(leaf, error) for leaf in leaves]
    if asked["alone"]:
        return [(path, None if answer == "null" else answer)]
    values = answer if isinstance(answer, dict) else {}
    missing = {"error": _error_of(answer) or "The environment gave no result for this path."}
    return [(leaf, values.get(leaf, missing)) for leaf in leaves]


def count_result(value: Any) -> tuple[int, int, str | None]:
    """How many tests passed and failed in what a test returned, and its error.

    A test that returned nothing did not raise, so it passed; a value in which nothing can be counted did not.
    """
    if value is None:
        return 1, 0, None
    errors: list[str] = []
    passed, failed = _count(value, errors, 0)
    if not passed and not failed and not errors and not _has_counts(value):
        errors.append("The result holds no passed, failed or total.")
    if errors and not failed:
        failed = 1
    error = _cut(errors[0] or "error", MAX_ERROR_CHARS) if errors else None
    return min(passed, MAX_COUNT), min(failed, MAX_COUNT), error


def _count(value: Any, errors: list[str], depth: int) -> tuple[int, int]:
    if depth > MAX_DEPTH:
        return 0, 0
    if isinstance(value, bool):
        return (1, 0) if value else (0, 1)
    if isinstance(value, list):
        return _sum(value, errors, depth)
    if not isinstance(value, dict):
        return 0, 0
    error = value.get("error")
    has_error = error is not None and error is not False and error != ""
    if has_error:
        errors.append(error if isinstance(error, str) else json.dumps(error)[:MAX_ERROR_CHARS])
    if _has_counts(value):
        passed, failed = _counts_of(value)
        return passed, max(failed, 1) if has_error else failed
    if has_error:
        return 0, 1
    return _sum(list(value.values()), errors, depth)


def _sum(values: list[Any], errors: list[str], depth: int) -> tuple[int, int]:
    pairs = [_count(value, errors, depth + 1) for value in values]
    return sum(passed for passed, _ in pairs), sum(failed for _, failed in pairs)


def _has_counts(value: Any) -> bool:
    """Whether this is a leaf: it says itself how its tests went."""
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("passed"), (bool, int)) or (
        isinstance(value.get("failed"), (bool, int)) and isinstance(value.get("total"), int)
    )


def _counts_of(value: dict[str, Any]) -> tuple[int, int]:
    given = value.get("passed")
    if isinstance(given, bool):
        return (1, 0) if given else (0, 1)
    total, failed = _number(value.get("total")), _number(value.get("failed"))
    passed = _number(given)
    if passed is None:
        return max((total or 0) - (failed or 0), 0), failed or 0
    # A suite that stopped early (total 5, passed 3, failed 0) has not passed; what it skipped on purpose may lack.
    unaccounted = (total or 0) - passed - (_number(value.get("skipped")) or 0)
    return passed, max(failed or 0, unaccounted, 0)


def _number(value: Any) -> int | None:
    return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else None


def _error_of(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else answer
    if isinstance(error, str):
        return error
    return "" if error is None else json.dumps(error)


def _detail(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"error"}:
        return ""  # the error is told by itself
    if isinstance(value, str):
        return _cut(value, MAX_DETAIL_CHARS)
    return _cut(json.dumps(value, ensure_ascii=False, indent=1), MAX_DETAIL_CHARS)


def _cut(text: str, max_chars: int) -> str:
    half = max_chars // 2
    if len(text) <= max_chars:
        return text
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _upload(archive: bytes, fields: dict[str, str]) -> tuple[bytes, str]:
    """A multipart body with the submission, and its content type."""
    boundary = "envoi-trace-boundary-5f1d9a0c7e"
    while boundary.encode() in archive:
        boundary += "x"
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="submission.tar.gz"\r\n'
        "Content-Type: application/gzip\r\n\r\n"
    )
    return head.encode() + archive + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def wait_for_schema(port: int, deadline_s: float) -> dict[str, Any]:
    """The runtime's schema as soon as it answers."""
    deadline = time.monotonic() + deadline_s
    error = "no answer"
    while time.monotonic() < deadline:
        try:
            status, answer = Runtime(port, deadline).ask("GET", "/schema")
        except (RuntimeLostError, DeadlineError) as problem:
            error = str(problem)
            time.sleep(0.05)
            continue
        if status == 200:
            return {"schema": answer}
        return {"error": f"GET /schema gave status {status}: {_error_of(answer)[:MAX_ERROR_CHARS]}"}
    return {"error": error, "waiting": True}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    if arguments[0] == "port":
        answer: dict[str, Any] = {"port": free_port()}
    elif arguments[0] == "schema":
        answer = wait_for_schema(int(arguments[1]), float(arguments[2]))
    else:
        request = json.loads(sys.stdin.buffer.readline())
        answer = run_tests(request, sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
