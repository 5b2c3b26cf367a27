"""Files of an E2B sandbox: streamed, binary-safe, and tried again when a transfer breaks off."""

from __future__ import annotations

import io

from e2b import AsyncSandbox  # noqa: TID253

from envoi_trace_core.errors import SandboxError
from envoi_trace_e2b.calls import call

TRANSFER_S = 1800.0
"""A whole file."""
STALL_S = 60.0
"""Between two pieces of one."""


async def upload(sandbox: AsyncSandbox, path: str, data: bytes) -> None:
    """Write a file, making its folders. What a broken transfer left is written over; it is not atomic.

    Raises:
        SandboxError: It can't be written there.
        SandboxLostError: The sandbox is gone.
    """

    async def once() -> None:
        # A file-like object is streamed; bytes would be copied into a multipart body.
        await sandbox.files.write(path, io.BytesIO(data), use_octet_stream=True)

    await call(f"{path} can't be written", once, sandbox_id=sandbox.sandbox_id, try_s=TRANSFER_S)


async def download(sandbox: AsyncSandbox, path: str, *, max_bytes: int) -> bytes:
    """Read a file.

    Raises:
        SandboxError: It is missing, no file, or longer than `max_bytes`.
        SandboxLostError: The sandbox is gone.
    """

    async def once() -> bytes:
        found = bytearray()
        opened = await sandbox.files.read(path, format="stream", stream_idle_timeout=STALL_S)
        async with opened as pieces:
            async for piece in pieces:
                found += piece
                if len(found) > max_bytes:
                    raise SandboxError(f"{path} can't be read: it has more than {max_bytes} bytes.")
        return bytes(found)

    return await call(f"{path} can't be read", once, sandbox_id=sandbox.sandbox_id, try_s=TRANSFER_S)
