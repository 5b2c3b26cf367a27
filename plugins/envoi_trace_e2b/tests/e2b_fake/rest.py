"""The REST API of the fake: sandboxes. Templates are in `builds.py`."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from typing import Any

from e2b_fake import builds
from e2b_fake.asgi import Exchange
from e2b_fake.state import ENVD_VERSION, FakeSandbox, State


async def serve(state: State, exchange: Exchange) -> None:
    """Answer one request to the address of the API."""
    raw = await exchange.body()
    if exchange.path.startswith("/upload/"):  # stands for a presigned address
        state.uploads[exchange.path.removeprefix("/upload/")] = raw
        return await exchange.reply(200)
    if exchange.headers.get("x-api-key") != state.api_key:
        return await exchange.reply(401, {"code": 401, "message": "Invalid API key"})
    body = json.loads(raw) if raw else {}
    words = [urllib.parse.unquote(word) for word in exchange.path.strip("/").split("/")]
    if words[0] in ("v2", "v3"):
        words = words[1:]
    if words[0] == "templates":
        return await builds.serve(state, exchange, words[1:], body)
    if words == ["sandboxes"]:
        return await (create if exchange.method == "POST" else list_all)(state, exchange, body)
    if words[0] == "sandboxes" and (sandbox := state.sandboxes.get(words[1])) is not None:
        return await act(state, exchange, sandbox, words[2:], body)
    return await exchange.reply(404, {"code": 404, "message": f"{exchange.path} not found"})


async def create(state: State, exchange: Exchange, body: dict[str, Any]) -> None:
    """Make a sandbox, also when its client goes away meanwhile."""
    key = exchange.headers.get("idempotency-key")
    if key in state.by_key and state.by_key[key] in state.sandboxes:
        return await exchange.reply(201, created(state.sandboxes[state.by_key[key]]))
    if body.get("timeout", 300) > state.limits.max_life_s:
        hours = state.limits.max_life_s / 3600
        return await exchange.reply(400, {"code": 400, "message": f"Timeout cannot be greater than {hours:g} hours"})
    template = state.templates.get(body["templateID"])
    if template is None:
        return await exchange.reply(404, {"code": 404, "message": f"template '{body['templateID']}' not found"})
    if (reason := state.reserve()) is not None:
        return await exchange.reply(429, {"code": 429, "message": reason})
    sandbox = await asyncio.shield(asyncio.ensure_future(state.create(body, template)))
    if key:
        state.by_key[key] = sandbox.id
    return await exchange.reply(201, created(sandbox))


async def list_all(state: State, exchange: Exchange, _body: dict[str, Any]) -> None:
    query = dict(urllib.parse.parse_qsl(exchange.scope["query_string"].decode()))
    metadata = dict(urllib.parse.parse_qsl(query.get("metadata", "")))
    wanted = {urllib.parse.unquote(name): urllib.parse.unquote(value) for name, value in metadata.items()}
    states = query.get("state", "running,paused").split(",")
    found = [
        sandbox
        for sandbox in state.sandboxes.values()
        if wanted.items() <= sandbox.metadata.items() and sandbox.state in states
    ]
    start, count = int(query.get("nextToken") or 0), int(query.get("limit") or 100)
    more = [(b"x-next-token", str(start + count).encode())] if start + count < len(found) else []
    return await exchange.reply(200, [detail(sandbox) for sandbox in found[start : start + count]], more)


async def act(state: State, exchange: Exchange, sandbox: FakeSandbox, words: list[str], body: dict[str, Any]) -> None:
    """On one sandbox."""
    match exchange.method, words:
        case "GET", []:
            return await exchange.reply(200, detail(sandbox))
        case "DELETE", []:
            state.kill(sandbox)
            return await exchange.reply(204)
        case "POST", ["timeout"]:
            state.arm(sandbox, body["timeout"])
            return await exchange.reply(204)
        case "POST", ["pause"]:
            if sandbox.state == "paused":
                return await exchange.reply(409, {"code": 409, "message": "already paused"})
            state.pause(sandbox)
            return await exchange.reply(204)
        case "POST", ["connect"]:
            was = sandbox.state
            if was == "paused":
                if (reason := state.refusal()) is not None:
                    return await exchange.reply(429, {"code": 429, "message": reason})
                state.resume(sandbox)
            state.arm(sandbox, body.get("timeout", 300))
            return await exchange.reply(201 if was == "paused" else 200, created(sandbox))
    return await exchange.reply(404, {"code": 404, "message": f"{exchange.path} not found"})


def created(sandbox: FakeSandbox) -> dict[str, Any]:
    return {
        "templateID": sandbox.template.name,
        "sandboxID": sandbox.id,
        "clientID": "fake",
        "envdVersion": ENVD_VERSION,
        "envdAccessToken": sandbox.token,
        "trafficAccessToken": None,
        "domain": None,
    }


def detail(sandbox: FakeSandbox) -> dict[str, Any]:
    return {
        **created(sandbox),
        "startedAt": sandbox.started_at.isoformat(),
        "endAt": sandbox.end_at.isoformat(),
        "cpuCount": 2,
        "memoryMB": 512,
        "diskSizeMB": 1024,
        "state": sandbox.state,
        "metadata": sandbox.metadata,
    }
