"""Stands between OpenCode and its model's server, and puts the key in.

OpenCode passes its whole environment on to the agent's shell, keeps what it is given in files, and tells it to
whoever asks its server. So it never gets the key, but a placeholder; this proxy, on loopback, replaces it in
the headers of every request. The key is in this process's memory and nowhere else in the sandbox.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

PLACEHOLDER = "envoi-trace-holds-the-key"
CONNECT_TIMEOUT_S = 60.0
CHUNK_BYTES = 65536
HOP_HEADERS = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "host", "content-length"}
)


class Proxy:
    """Serves on a free port of loopback."""

    def __init__(self, upstream: str, key: str) -> None:
        """Begin to serve, in threads.

        Args:
            upstream: The model server's base URL.
            key: Empty when it wants none.
        """
        self.upstream = urlsplit(upstream)
        self.key = key
        self.prefix = f"/{secrets.token_hex(8)}"  # other users of this machine can't guess it
        server = _Listener(self)
        self.url = f"http://127.0.0.1:{server.server_address[1]}{self.prefix}"
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def connect(self) -> tuple[http.client.HTTPConnection, str]:
        """A connection to the model's server, and what its paths begin with."""
        host, is_tls = self.upstream.hostname or "", self.upstream.scheme == "https"
        port = self.upstream.port or (443 if is_tls else 80)
        base = self.upstream.path.rstrip("/")
        between = None
        if not urllib.request.proxy_bypass(host):
            between = urllib.request.getproxies().get(self.upstream.scheme)
        if between is None:
            return _connection(host, port, is_tls), base
        hop = urlsplit(between if "//" in between else f"http://{between}")
        hop_host, hop_port = hop.hostname or "", hop.port or 8080
        connection = _connection(hop_host, hop_port, is_tls)
        if is_tls:
            connection.set_tunnel(host, port)
            return connection, base
        return connection, f"http://{host}:{port}{base}"

    def with_key(self, value: str) -> str:
        """Put the key in the placeholder's place."""
        return value.replace(PLACEHOLDER, self.key)

    def headers(self, given: Iterable[tuple[str, str]]) -> dict[str, str]:
        """The headers of a request as they go on; without a key, those that would hold it are left out."""
        kept = {name: value for name, value in given if name.lower() not in HOP_HEADERS}
        if not self.key:
            kept = {name: value for name, value in kept.items() if PLACEHOLDER not in value}
        return {**{name: self.with_key(value) for name, value in kept.items()}, "Connection": "close"}


def _connection(host: str, port: int, is_tls: bool) -> http.client.HTTPConnection:
    if is_tls:
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
    return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def log_message(self, *_arguments: Any) -> None:
        pass

    def _serve(self) -> None:
        proxy = self.server.proxy
        self.close_connection = True
        if not self.path.startswith(f"{proxy.prefix}/"):
            self._tell(404, "there is nothing here")
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        connection, base = proxy.connect()
        try:
            connection.connect()
        except OSError as error:
            self._tell(502, f"{proxy.upstream.hostname} can't be reached: {error}")
            return
        try:
            path = proxy.with_key(base + self.path[len(proxy.prefix) :])
            self._pass_on(connection, path, body, proxy.headers(self.headers.items()))
        except (OSError, http.client.HTTPException):
            # Broken off here as it broke off there: OpenCode decides what to make of it.
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.close()

    def _pass_on(self, connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> None:
        upstream_socket: socket.socket = connection.sock
        upstream_socket.settimeout(None)  # a model may think for long; the run has its own limits
        threading.Thread(target=self._end_with_client, args=(upstream_socket,), daemon=True).start()
        connection.request(self.command, path, body=body or None, headers=headers)
        response = connection.getresponse()
        self.send_response_only(response.status, response.reason)
        for name, value in response.headers.items():
            if name.lower() not in HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while chunk := response.read1(CHUNK_BYTES):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.flush()
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        self.wfile.write(b"0\r\n\r\n")

    def _end_with_client(self, upstream_socket: socket.socket) -> None:
        """End the request upstream when OpenCode goes away: it must not go on costing."""
        with contextlib.suppress(OSError):  # a reset is an end too
            if self.connection.recv(1, socket.MSG_PEEK):
                return
        with contextlib.suppress(OSError):
            upstream_socket.shutdown(socket.SHUT_RDWR)

    def _tell(self, status: int, message: str) -> None:
        data = json.dumps({"error": {"message": message, "type": "envoi_trace"}}).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815
