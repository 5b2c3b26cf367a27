"""`opencode serve`: its process, and requests to it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from .processes import Guard, hide_variable, kill_group

START_TRIES = 3
REQUEST_TIMEOUT_S = 60.0
TERMINATE_S = 3.0
MAX_WORDS = 2000


class ServerError(Exception):
    """The server did not start, is gone, or answered with an error."""


class Server:
    """One process of `opencode serve`, on a free port of loopback, behind a password of its own."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        workspace: str,
        environment: dict[str, str],
        start_timeout_s: float,
        guard: Guard,
    ) -> None:
        """Start it and wait until it answers.

        Raises:
            ServerError: It ended, or does not answer in time.
        """
        self.log_file = folder / "server.log"
        spare_install(folder / "home")
        self._workspace = workspace
        self._password = secrets.token_hex(16)
        self._given = {**environment, "OPENCODE_SERVER_PASSWORD": self._password}
        self._binary, self._folder, self._guard = binary, folder, guard
        deadline = time.monotonic() + start_timeout_s
        for attempt in range(START_TRIES):
            self._start()
            if self._is_ready(deadline):
                break
            self.stop()
            if attempt == START_TRIES - 1 or time.monotonic() > deadline:
                raise ServerError(f"opencode serve did not start: {self.last_words() or 'it says nothing'}")
        hide_variable(self.process.pid, "OPENCODE_SERVER_PASSWORD", self._password)
        self.ended = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _start(self) -> None:
        with socket.socket() as probe:  # `--port 0` would prefer 4096
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [self._binary, "serve", "--hostname", "127.0.0.1", "--port", str(self.port)],
                cwd=self._folder,
                env=self._given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._guard.watch_group(self.process.pid)

    def _is_ready(self, deadline: float) -> bool:
        pause_s = 0.05
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException, ServerError):
                self.request("GET", "/global/health", timeout_s=5)
                return self.process.poll() is None
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, 0.5)
        return False

    def _wait(self) -> None:
        self.process.wait()
        self.ended.set()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def open(self, timeout_s: float | None) -> tuple[http.client.HTTPConnection, dict[str, str]]:
        """A connection, and the headers that every request needs."""
        token = base64.b64encode(f"opencode:{self._password}".encode()).decode()
        headers = {
            "Authorization": f"Basic {token}",
            "Content-Type": "application/json",
            "x-opencode-directory": self._workspace,
        }
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s), headers

    def request(self, method: str, path: str, body: Any = None, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> Any:
        """The JSON of an answer.

        Raises:
            ServerError: It is an error, in the server's words.
            OSError, http.client.HTTPException: There is no answer.
        """
        connection, headers = self.open(timeout_s)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            with connection.getresponse() as response:
                status, data = response.status, response.read()
        if status >= 400:
            raise ServerError(f"{method} {path}: {status} {_words(data)}")
        return json.loads(data) if data else None

    def last_words(self) -> str:
        """The end of what it wrote."""
        with contextlib.suppress(OSError):
            text = self.log_file.read_bytes()[-4 * MAX_WORDS :].decode("utf-8", "replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return " ".join(lines[-3:])[-MAX_WORDS:]
        return ""

    def how_it_ended(self) -> str:
        """For people."""
        code = self.process.poll()
        if code is not None and code < 0:
            return f"opencode serve was killed by signal {-code}"
        words = self.last_words()
        return f"opencode serve ended with exit status {code}" + (f": {words}" if words else "")

    def stop(self) -> None:
        """End it with its process group."""
        if self.is_alive:
            with contextlib.suppress(OSError):
                self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(TERMINATE_S)
        kill_group(self.process.pid)
        self.process.wait()


def server_environment(home: str, config: dict[str, Any], auth: dict[str, Any]) -> dict[str, str]:
    """A home of its own, nothing that calls home, and no project configuration: the agent could write that."""
    off = ["AUTOUPDATE", "MODELS_FETCH", "SHARE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS", "EXTERNAL_SKILLS"]
    off += ["CLAUDE_CODE", "PROJECT_CONFIG"]
    return {
        **os.environ,
        "HOME": home,
        "XDG_CONFIG_HOME": f"{home}/config",
        "XDG_DATA_HOME": f"{home}/data",
        "XDG_STATE_HOME": f"{home}/state",
        "XDG_CACHE_HOME": f"{home}/cache",
        **{f"OPENCODE_DISABLE_{name}": "1" for name in off},
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        "OPENCODE_AUTH_CONTENT": json.dumps(auth),
    }


def spare_install(home: Path) -> None:
    """Make it look as if `@opencode-ai/plugin` were installed beside the configuration.

    OpenCode installs it there before it loads any plugin, over the network, for half a minute; ours does without.
    """
    folder = home / "config" / "opencode"
    (folder / "node_modules").mkdir(parents=True, exist_ok=True)
    wanted = {"dependencies": {"@opencode-ai/plugin": "*"}}
    for name, content in (("package.json", wanted), ("package-lock.json", {"packages": {"": wanted}})):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _words(data: bytes) -> str:
    try:
        value = json.loads(data)
        details = value.get("data") if isinstance(value.get("data"), dict) else value
        return str(details.get("message") or value)[:MAX_WORDS]
    except (ValueError, AttributeError):
        return data[:MAX_WORDS].decode("utf-8", "replace")
