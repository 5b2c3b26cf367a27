"""Starting app-server so that its credentials are in its memory and nowhere else.

Its input is a file in the sandbox. So the first requests, with the login among them, come through a named pipe
instead: they are never on a disk, in an argument or in an environment.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

import anyio

from envoi_trace_codex.client import AppServerClient
from envoi_trace_codex.credentials import Credentials
from envoi_trace_codex.failures import silent
from envoi_trace_codex.home import CodexHome
from envoi_trace_core.errors import AgentError, SandboxError
from envoi_trace_core.sandboxing.detached import DetachedProcess

COMMAND_TIMEOUT_S = 60.0

# Codex takes the wrapper's place, so its end is the process's end. Its input is a second pipe, into which goes what
# comes through the first one, and then the rest. The pipes' names are gone before Codex runs its first command.
_WRAP = """
greeting=$1 input=$2; shift 2
exec 3<&0
{ cat "$greeting"; rm -f "$greeting" "$input"; exec cat <&3; } >"$input" &
exec 3<&-
exec "$@" <"$input"
"""

_MAKE_PIPES = 'umask 077; mkdir -p "${1%/*}" && rm -f "$1" "$2" && mkfifo "$1" "$2"'


async def start_app_server(
    home: CodexHome, binary: str, credentials: Credentials, *, timeout_s: float
) -> AppServerClient:
    """Start a new app-server, greet it and sign in.

    Raises:
        AgentError: It did not start, or refused the credentials.
        SandboxError: The sandbox failed.
    """
    name = f"codex-{secrets.token_hex(6)}"
    greeting, given = home.pipe(name, "greeting"), home.pipe(name, "input")
    made = await home.sandbox.run(("sh", "-c", _MAKE_PIPES, "sh", greeting, given), timeout_s=COMMAND_TIMEOUT_S)
    if made.exit_code != 0:
        raise SandboxError(f"no named pipe can be made in the sandbox: {made.stderr[-300:].decode('utf-8', 'replace')}")
    await home.note_process(name)
    process = await DetachedProcess.start(
        home.sandbox,
        name=name,
        argv=("sh", "-c", _WRAP, "sh", greeting, given, binary, "app-server"),
        env={"CODEX_HOME": home.path},
        stdin=True,
    )
    client = AppServerClient(process)
    try:
        await _greet(client, home, greeting, credentials, timeout_s)
    except BaseException:
        with anyio.move_on_after(COMMAND_TIMEOUT_S, shield=True):
            await client.close()
            await process.kill()
        raise
    return client


async def _greet(
    client: AppServerClient, home: CodexHome, greeting: str, credentials: Credentials, timeout_s: float
) -> None:
    about = {"name": "envoi-trace", "title": "envoi-trace", "version": "1"}
    hello, line = client.request("initialize", {"clientInfo": about, "capabilities": {"experimentalApi": True}})
    lines = [line, json.dumps({"method": "initialized"}).encode() + b"\n"]
    login = None
    if credentials.login is not None:
        login, line = client.request("account/login/start", credentials.login)
        lines.append(line)
    await _send_through(home, greeting, lines, client, timeout_s)
    await client.answer(hello, "initialize", timeout_s=timeout_s)
    if login is not None:
        try:
            await client.answer(login, "account/login/start", timeout_s=timeout_s)
        except AgentError as error:
            error.mend = error.mend or "check CODEX_API_KEY, or sign in again with `codex login`"
            raise


async def _send_through(
    home: CodexHome, greeting: str, lines: Sequence[bytes], client: AppServerClient, timeout_s: float
) -> None:
    """Write into the named pipe. A program that never ran never reads it: then its end is what to tell."""
    sent = False
    with anyio.move_on_after(timeout_s):
        async with home.sandbox.stream(("sh", "-c", 'exec cat >"$1"', "sh", greeting)) as stream:
            await stream.write(b"".join(lines))
            await stream.close_stdin()
            sent = await stream.wait() == 0
    if not sent:
        if await client.process.exit_code() is not None:
            raise await client.death()
        raise silent("initialize", timeout_s)
