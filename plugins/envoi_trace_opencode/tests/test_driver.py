"""Pieces of the driver alone, where the real OpenCode can't be made to misbehave."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from envoi_trace_opencode.driver.history import reconcile
from envoi_trace_opencode.driver.output import Output
from envoi_trace_opencode.driver.processes import MARK_VARIABLE, hide_variable, kill_marked
from envoi_trace_opencode.driver.proxy import PLACEHOLDER, Proxy
from envoi_trace_opencode.driver.stream import EventStream


class Listener(ThreadingHTTPServer):
    """Hands every request to a function of the test."""

    daemon_threads = True

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.close_connection = True
                answer(self)

            def do_POST(self) -> None:
                self.do_GET()

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]


Listen = Callable[[Callable[[BaseHTTPRequestHandler], None]], Listener]


@pytest.fixture
def listen() -> Iterator[Listen]:
    made: list[Listener] = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> Listener:
        made.append(Listener(answer))
        return made[-1]

    yield start
    for listener in made:
        listener.shutdown()
        listener.server_close()


def tell(handler: BaseHTTPRequestHandler, body: bytes, *, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("content-length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


# -- the event stream -----------------------------------------------------------------------------


class BreakingServer:
    """Speaks like OpenCode's: its first event stream breaks in the middle of a turn."""

    def __init__(self, listen: Listen) -> None:
        self.is_alive = True
        self.streams = 0
        self.stored: list[dict[str, Any]] = []
        self._port = listen(self._answer).port

    def open(self, timeout_s: float | None) -> tuple[http.client.HTTPConnection, dict[str, str]]:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s), {}

    def request(self, method: str, path: str, body: Any = None, *, timeout_s: float | None = 10) -> Any:
        connection, _headers = self.open(timeout_s)
        with contextlib.closing(connection):
            connection.request(method, path)
            with connection.getresponse() as response:
                return json.loads(response.read())

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path != "/event":
            tell(handler, json.dumps(self.stored).encode())
            return
        self.streams += 1
        handler.send_response(200)
        handler.end_headers()
        events = [{"type": "server.connected", "properties": {}}]
        if self.streams == 1:
            events.append(event(self.stored[1]["parts"][0]))
            events.append({"type": "server.heartbeat", "properties": {}})
        for told in events:
            handler.wfile.write(b"data: " + json.dumps(told).encode() + b"\n\n")
            handler.wfile.flush()
        while self.streams > 1 and self.is_alive:
            time.sleep(0.02)


def text_part(name: str, *, end: bool = True) -> dict[str, Any]:
    times = {"start": 1, "end": 2} if end else {"start": 1}
    about = {"id": name, "messageID": "msg_a", "sessionID": "ses_1", "type": "text"}
    return {**about, "text": name, "time": times}


def event(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message.part.updated", "properties": {"sessionID": "ses_1", "part": part}}


def test_what_a_broken_stream_lost_is_told_once(
    listen: Listen, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = BreakingServer(listen)
    server.stored = [
        {"info": {"id": "msg_u", "role": "user"}, "parts": [text_part("prompt")]},
        {
            "info": {"id": "msg_a", "role": "assistant", "sessionID": "ses_1"},
            "parts": [text_part("seen"), text_part("lost"), text_part("open", end=False)],
        },
    ]
    stream = EventStream(server, Output(tmp_path / "state.json"), lambda _status: None)  # type: ignore[arg-type]
    deadline = time.monotonic() + 10
    while server.streams < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert stream.wait_connected()
    reconcile(server, stream, "ses_1")  # type: ignore[arg-type]
    reconcile(server, stream, "ses_1")  # type: ignore[arg-type]
    server.is_alive = False
    told = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    parts = [(one["properties"]["part"]["id"], "reconciled" in one) for one in told if "part" in one["properties"]]
    assert parts == [("seen", False), ("lost", True)]
    assert [one["type"] for one in told].count("envoi.stream.broken") == 1
    assert "message.updated" in [one["type"] for one in told]
    assert "server.heartbeat" not in [one["type"] for one in told]


# -- the proxy ------------------------------------------------------------------------------------


def ask(proxy: Proxy, path: str = "/chat", **headers: str) -> http.client.HTTPResponse:
    url = urlsplit(proxy.url)
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    connection.request("POST", url.path + path, b"{}", headers)
    return connection.getresponse()


def test_the_key_takes_the_placeholders_place_in_any_header(listen: Listen) -> None:
    got: list[dict[str, str]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        got.append({**dict(handler.headers.items()), "path": handler.path})
        tell(handler, b"fine")

    proxy = Proxy(f"http://127.0.0.1:{listen(answer).port}/v1/", "the-key")
    response = ask(proxy, Authorization=f"Bearer {PLACEHOLDER}", **{"x-api-key": PLACEHOLDER})
    assert response.read() == b"fine"
    assert (got[0]["Authorization"], got[0]["x-api-key"], got[0]["path"]) == ("Bearer the-key", "the-key", "/v1/chat")
    without = Proxy(f"http://127.0.0.1:{listen(answer).port}/v1", "")
    ask(without, Authorization=f"Bearer {PLACEHOLDER}").read()
    assert "Authorization" not in got[1]


def test_the_proxy_serves_those_who_know_its_prefix_only(listen: Listen) -> None:
    proxy = Proxy(f"http://127.0.0.1:{listen(lambda handler: tell(handler, b'')).port}", "the-key")
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)
    connection.request("GET", "/chat")
    assert connection.getresponse().status == 404


def test_a_broken_answer_arrives_broken(listen: Listen) -> None:
    proxy = Proxy(f"http://127.0.0.1:{listen(lambda handler: tell(handler, b'half', length=99)).port}", "k")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(proxy).read()


def test_an_unreachable_server_is_told_in_words() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        response = ask(Proxy(f"http://127.0.0.1:{unused.getsockname()[1]}", "k"))
        assert response.status == 502
        assert "can't be reached" in json.loads(response.read())["error"]["message"]


def test_a_request_that_is_given_up_ends_upstream_too(listen: Listen) -> None:
    ended = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert handler.rfile.read(2) == b"{}"
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"begun")
        handler.wfile.flush()
        handler.connection.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert handler.connection.recv(1) == b""
        ended.set()

    url = urlsplit(Proxy(f"http://127.0.0.1:{listen(answer).port}", "k").url)
    with socket.create_connection(("127.0.0.1", url.port or 0), timeout=10) as client:
        client.sendall(f"POST {url.path}/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        received = b""
        while b"begun" not in received:
            received += client.recv(1000)
    assert ended.wait(10)


# -- processes ------------------------------------------------------------------------------------


def living_in_group(group: int) -> list[str]:
    told = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()]
    return [row[-1] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def test_marked_processes_and_what_they_started_die() -> None:
    mark = f"test-{os.getpid()}-{time.monotonic_ns()}"
    script = "env -i sleep 60 & echo started; wait"
    child = subprocess.Popen(
        ["sh", "-c", script], env={**os.environ, MARK_VARIABLE: mark}, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"started\n"
    bystander = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK_VARIABLE: f"{mark}-other"})
    try:
        kill_marked(mark)
        assert child.wait(5) < 0
        assert bystander.poll() is None
        assert living_in_group(child.pid) == []
    finally:
        bystander.kill()
        bystander.wait()
        child.stdout.close()


@linux
def test_a_variable_is_hidden_from_a_processs_environment() -> None:
    child = subprocess.Popen(["sleep", "60"], env={"A": "1", "SECRET": "hush", "Z": "2"})
    try:
        environ = Path(f"/proc/{child.pid}/environ")
        deadline = time.monotonic() + 5
        while b"SECRET=hush" not in environ.read_bytes():
            assert time.monotonic() < deadline
        assert hide_variable(child.pid, "SECRET", "hush")
        assert environ.read_bytes() == b"A=1\0SECRET=xxxx\0Z=2\0"
        assert not hide_variable(child.pid, "SECRET", "hush")
    finally:
        child.kill()
        child.wait()
