"""The sandbox's side of checkpoints: `checkpoint.sh` there, and what it answers.

What it answers is untrusted: the agent runs under the same user and can write to the script's files.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import attrs

from envoi_trace_core.errors import SandboxError
from envoi_trace_core.protocols import Sandbox

DEFAULT_EXCLUDES: tuple[str, ...] = (
    "target/",
    "node_modules/",
    "__pycache__/",
    "*.pyc",
    ".venv/",
    "venv/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".tox/",
    ".nox/",
    ".gradle/",
    ".zig-cache/",
    ".DS_Store",
)
"""What no checkpoint holds, as patterns of gitignore: what a build or a package manager makes again.

`build/` and `dist/` are not among them, since projects keep sources there too. The workspace's own ignore files
come on top of it, and may take a pattern back (`!target/`).
"""

NEVER_RECORDED = ".[gG][iI][tT]"
"""git refuses such a name in any spelling."""

INIT_TIMEOUT_S = 60.0
FETCH_TIMEOUT_S = 600.0
RESTORE_TIMEOUT_S = 600.0
MAX_PACK_BYTES = 512 * 1024 * 1024
MAX_SKIPPED_BYTES = 16 * 1024 * 1024
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_PRUNABLE = re.compile(r"([A-Za-z0-9._-]+)/")
NOW = "-"
"""The key that asks for the workspace as it is now."""


def call_key(call_id: str | None) -> str:
    """How the script names a call: ids are any text of the agent's, so what is not plain is hashed."""
    if call_id is None:
        return NOW
    if _PLAIN_CALL_ID.fullmatch(call_id):
        return f"c-{call_id}"
    data = call_id.encode("utf-8", "surrogateescape" if _is_escaped(call_id) else "surrogatepass")
    # As `git hash-object` has it: the script makes the same name of the same bytes.
    return "h-" + hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_escaped(text: str) -> bool:
    return all(0xDC80 <= ord(char) <= 0xDCFF for char in text if 0xD800 <= ord(char) <= 0xDFFF)


@attrs.frozen(kw_only=True)
class RawCheckpoint:
    """What the sandbox says that it recorded."""

    commit: str
    tree: str
    """As the sandbox says; the mirror reads it from the commit itself."""
    skipped_files: tuple[bytes, ...]
    """Relative to the workspace."""
    is_late: bool
    """Whether the hook had not recorded it, so that it was recorded when it was fetched."""
    note: str
    """What went wrong; empty when nothing did."""
    pack: bytes
    """The objects that the base lacks; empty when there is nothing new."""


@attrs.frozen(kw_only=True)
class SandboxCheckpoints:
    """The checkpoints of one sandbox's workspace."""

    sandbox: Sandbox

    @property
    def script(self) -> str:
        """The script's path in the sandbox."""
        return f"{self.sandbox.support_dir}/checkpoint/checkpoint.sh"

    @property
    def hook_command(self) -> tuple[str, ...]:
        """What the agent runs after a tool call, with the call's id as a further argument."""
        return ("/bin/sh", self.script, "commit")

    async def install(self, *, excludes: tuple[str, ...], max_file_bytes: int) -> None:
        """Write the script and its settings into the sandbox, and make its repository when there is none.

        Raises:
            SandboxError: There is no git in the sandbox, or the repository can't be made.
        """
        folder = f"{self.sandbox.support_dir}/checkpoint"
        # Commands and written files may belong to different users: the folder must be the commands' one.
        probe = await self.sandbox.run(
            ["/bin/sh", "-c", 'git --version >&2 && mkdir -p "$1" && printf %s "$PATH"', "sh", folder],
            timeout_s=INIT_TIMEOUT_S,
            cwd="/",
        )
        if probe.exit_code != 0:
            raise SandboxError(
                f"git can't be run in sandbox {self.sandbox.id}: {_text(probe.stderr)}",
                mend="install git (2.30 or newer) in the sandbox's image",
            )
        settings = _settings(
            self.sandbox.workspace, probe.stdout.decode(errors="surrogateescape"), max_file_bytes, excludes
        )
        await self.sandbox.write_file(f"{folder}/settings", settings.encode(errors="surrogateescape"))
        await self.sandbox.write_file(f"{folder}/excludes", "\n".join([*excludes, NEVER_RECORDED, ""]).encode())
        script = (Path(__file__).parent / "checkpoint.sh").read_bytes()
        await self.sandbox.write_file(self.script, script, mode=0o755)
        made = await self.sandbox.run(["/bin/sh", self.script, "init"], timeout_s=INIT_TIMEOUT_S, cwd="/")
        if made.exit_code != 0:
            raise SandboxError(
                f"no checkpoint repository can be made in sandbox {self.sandbox.id}: {_text(made.stderr)}"
            )

    async def fetch(self, key: str, base: str | None) -> RawCheckpoint | str:
        """What was recorded under a key, with the objects that `base` lacks.

        Returns:
            The checkpoint; or, in words, why there is none.

        Raises:
            SandboxLostError: The sandbox is gone.
        """
        result = await self.sandbox.run(
            ["/bin/sh", self.script, "fetch", key, base or ""],
            timeout_s=FETCH_TIMEOUT_S,
            cwd="/",
            max_output_bytes=MAX_PACK_BYTES + MAX_SKIPPED_BYTES,
        )
        if result.truncated:
            return f"the checkpoint's objects are above {MAX_PACK_BYTES >> 20} MiB"
        if result.exit_code != 0:
            return f"the checkpoint script failed ({result.exit_code}): {_text(result.stderr)}"
        try:
            return _parse(result.stdout)
        except ValueError as error:
            return f"the checkpoint script gave what can't be read: {error}"

    async def restore(self, commit: str, pack: bytes) -> None:
        """Make the workspace exactly `commit`; checkpoints go on from there.

        Raises:
            SandboxError: It could not be done.
        """
        result = await self.sandbox.run(
            ["/bin/sh", self.script, "restore", commit], timeout_s=RESTORE_TIMEOUT_S, stdin=pack, cwd="/"
        )
        if result.exit_code != 0:
            raise SandboxError(f"the workspace could not be restored to {commit}: {_text(result.stderr)}")


def _settings(workspace: str, path: str, max_file_bytes: int, excludes: tuple[str, ...]) -> str:
    prunable = [match[1] for pattern in excludes if (match := _PRUNABLE.fullmatch(pattern))]
    return (
        f"WORKSPACE={shlex.quote(workspace)}\n"
        f"COMMAND_PATH={shlex.quote(path)}\n"
        f"MAX_FILE_BYTES={max_file_bytes}\n"
        f"PRUNE={shlex.quote(' '.join(prunable))}\n"
    )


def _parse(data: bytes) -> RawCheckpoint | str:
    """Take the script's answer apart.

    Raises:
        ValueError: It is not of the script's making.
    """
    fields: dict[str, bytes] = {}
    position = 0
    for name in ("status", "ran", "commit", "tree", "note", "big", "ignored", "pack"):
        end = data.find(b"\n", position)
        key, _, value = data[position:end].partition(b" ")
        if end < 0 or key != name.encode():
            raise ValueError(f"no {name}")
        position = end + 1
        if name in ("big", "ignored"):
            size = int(value)
            if not 0 <= size <= min(MAX_SKIPPED_BYTES, len(data) - position):
                raise ValueError(f"{name} of {size} bytes")
            value = data[position : position + size]
            position += size
        fields[name] = value
    note = " ".join(fields["note"].decode(errors="replace").split())[:1000]
    if fields["status"] != b"ok":
        return note or "the checkpoint failed"
    commit, tree = fields["commit"].decode(), fields["tree"].decode()
    if not _COMMIT.fullmatch(commit) or not _COMMIT.fullmatch(tree):
        raise ValueError("no commit id")
    ignored = set(fields["ignored"].split(b"\0"))
    skipped = [path.removeprefix(b"./") for path in fields["big"].split(b"\0") if path and path not in ignored]
    return RawCheckpoint(
        commit=commit,
        tree=tree,
        skipped_files=tuple(sorted(skipped)),
        is_late=fields["ran"] == b"late",
        note=note,
        pack=b"" if fields["pack"] == b"none" else data[position:],
    )


def _text(data: bytes) -> str:
    return " ".join(data.decode(errors="replace").split())[-600:] or "no message"
