"""The history of a workspace, as a run uses it: checkpoints in the sandbox, the record in the orchestrator's mirror."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import attrs
from anyio import to_thread

from envoi_trace_core.domain.parts import RepoCheckpoint
from envoi_trace_core.errors import SandboxError, StorageError
from envoi_trace_core.protocols import Sandbox
from envoi_trace_core.repo.archives import write_bundle, write_files, write_tar
from envoi_trace_core.repo.checkpoints import DEFAULT_EXCLUDES, NOW, RawCheckpoint, SandboxCheckpoints, call_key
from envoi_trace_core.repo.git import Git
from envoi_trace_core.repo.mirror import Accepted, Mirror, pack_without_history
from envoi_trace_core.repo.patches import changed_files, patch, shown_path
from envoi_trace_core.repo.records import Origin, Record
from envoi_trace_core.repo.redacted_trees import Redact

DEFAULT_MAX_FILE_BYTES = 50_000_000


@attrs.frozen(kw_only=True)
class CheckpointResult:
    """The workspace right after a part."""

    commit: str
    """Of the record branch; the same as before when the part changed nothing."""
    checkpoint: RepoCheckpoint | None
    """None when the part changed nothing."""
    patch: str | None
    warning: str | None
    """What was odd: tampering, a hook that failed, a checkpoint that could not be made."""
    is_late: bool = False
    """Whether the call's hook had not run, so that the workspace was recorded later than the call ended."""


@attrs.define(kw_only=True)
class Repository:
    """The workspace's history. Calls may overlap: they are done one after the other."""

    _mirror: Mirror
    _sandbox: SandboxCheckpoints
    _excludes: tuple[str, ...]
    _max_file_bytes: int
    _lock: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    @classmethod
    async def open(
        cls,
        *,
        mirror_dir: Path,
        sandbox: Sandbox,
        redact: Redact | None = None,
        max_file_bytes: int = DEFAULT_MAX_FILE_BYTES,
        excludes: Sequence[str] = DEFAULT_EXCLUDES,
    ) -> Repository:
        """Open or make the mirror, and install the script in the sandbox.

        Args:
            mirror_dir: A bare git repository in the trajectory's state folder, held by one orchestrator at a time.
            sandbox: Where the workspace is.
            redact: Replaces secrets in the bytes of a file or a path; the record holds what it gives.
            max_file_bytes: A larger file is left out, and named.
            excludes: Patterns of gitignore for what is never recorded.

        Raises:
            StorageError: The mirror is damaged.
            SandboxError: There is no git in the sandbox.
        """
        mirror = await _in_thread(Mirror.open, mirror_dir, redact=redact)
        repository = cls(
            mirror=mirror,
            sandbox=SandboxCheckpoints(sandbox=sandbox),
            excludes=tuple(excludes),
            max_file_bytes=max_file_bytes,
        )
        await repository._install()
        return repository

    async def _install(self) -> None:
        await self._sandbox.install(excludes=self._excludes, max_file_bytes=self._max_file_bytes)

    @property
    def hook_command(self) -> tuple[str, ...]:
        """What the agent runs in the sandbox after a tool call, with the call's id as a further argument."""
        return self._sandbox.hook_command

    @property
    def head(self) -> str:
        """The newest commit of the record.

        Raises:
            StorageError: `begin` was not called.
        """
        if self._mirror.head is None:
            raise StorageError("the workspace's history has not begun")
        return self._mirror.head.commit

    async def begin(self, at: datetime) -> str:
        """Record the workspace as it is before the first part; after a resume, gives the record's head.

        Raises:
            SandboxError: The sandbox can't make the commit.
        """
        async with self._lock:
            if self._mirror.head is None:
                origin = Origin(part=0, call_key=NOW, at=at)
                made = await self._fetch(NOW)
                if isinstance(made, str):
                    raise SandboxError(f"the workspace can't be recorded: {made}")
                raw, accepted = made
                await _in_thread(self._mirror.record, accepted, origin=origin, skipped_files=self._skipped(raw))
            return self.head

    async def checkpoint(self, *, call_id: str | None, part: int, at: datetime) -> CheckpointResult:
        """Record the workspace as it was right after a call.

        It is idempotent: for a part that was recorded before a crash it gives what was recorded.

        Args:
            call_id: As the agent gave it to the hook; None for the workspace as it is now.
            part: The part's number.
            at: The commit's date.

        Raises:
            SandboxLostError: The sandbox is gone.
            StorageError: The mirror failed.
        """
        async with self._lock:
            key = self._key(call_id)
            origin = Origin(part=part, call_key=self._recorded_key(key), at=at)
            record = await _in_thread(self._mirror.find, origin)
            if record is not None:
                return await _in_thread(self._result, record, None)
            made = await self._fetch(key)
            if isinstance(made, str):
                return self._unchanged(f"part {part} has no checkpoint: {made}")
            raw, accepted = made
            warnings = [accepted.tampered] if accepted.tampered else []
            if raw.note:
                warnings.append(f"the checkpoint of part {part}: {raw.note}")
            warning = "; ".join(warnings) or None
            record = await _in_thread(self._mirror.record, accepted, origin=origin, skipped_files=self._skipped(raw))
            if record is None:
                return attrs.evolve(self._unchanged(warning), is_late=raw.is_late)
            result = await _in_thread(self._result, record, warning)
            return attrs.evolve(result, is_late=raw.is_late)

    async def peek(self) -> str:
        """A commit of the workspace as it is now, for a test call.

        It is the record's head when nothing changed since; else a commit that the next part takes over when it
        finds the same workspace, and that `repo.bundle` holds in any case.

        Raises:
            SandboxError: The workspace can't be recorded.
        """
        async with self._lock:
            made = await self._fetch(NOW)
            if isinstance(made, str):
                raise SandboxError(f"the workspace can't be recorded: {made}")
            raw, accepted = made
            record = await _in_thread(
                self._mirror.record_test, accepted, at=datetime.now(UTC), skipped_files=self._skipped(raw)
            )
            return record.commit

    async def tree_of(self, commit: str) -> str:
        """The hash of a commit's tree: equal trees are equal workspaces.

        Raises:
            StorageError: There is no such commit.
        """
        return await _in_thread(self._mirror.tree_of, commit)

    async def export_tar(self, commit: str, destination: Path) -> None:
        """Write the plain files of a commit as a tar.gz, the same bytes for the same commit.

        Raises:
            StorageError: There is no such commit, or no room.
        """
        await _in_thread(write_tar, self._mirror.git, commit, destination)

    async def export(self, commit: str, folder: Path) -> None:
        """Write the plain files of a commit into an empty folder.

        Raises:
            StorageError: There is no such commit, or no room.
        """
        await _in_thread(write_files, self._mirror.git, commit, folder)

    async def bundle(self, destination: Path) -> None:
        """Write `repo.bundle`: the whole record; `git clone` of it checks the newest commit out.

        Raises:
            StorageError: It could not be written.
        """
        async with self._lock:
            await _in_thread(write_bundle, self._mirror.git, destination, since=None)

    async def increment(self, since: str | None, destination: Path) -> str:
        """Write what the record gained after `since` as a bundle; gives its head, the `since` of the next one.

        When there is nothing new, no file is written.
        """
        async with self._lock:
            if since != self.head:
                await _in_thread(write_bundle, self._mirror.git, destination, since=since)
            return self.head

    async def restore_into(self, sandbox: Sandbox, commit: str) -> None:
        """Make the workspace of a new sandbox exactly what it was at a commit; checkpoints go on there.

        Raises:
            SandboxError: It could not be done.
        """
        async with self._lock:
            self._sandbox = SandboxCheckpoints(sandbox=sandbox)
            await self._install()
            root, pack = await _in_thread(self._mirror.restart_from, commit)
            await self._sandbox.restore(root, pack)

    async def fork_into_workspace(self, source: Git, commit: str) -> None:
        """Before `begin`: make the workspace exactly what another trajectory's was at a commit.

        Raises:
            SandboxError: It could not be done.
        """
        async with self._lock:
            tree = await _in_thread(source.text, "rev-parse", f"{commit}^{{tree}}")
            root, pack = await _in_thread(pack_without_history, source, tree, commit)
            await self._sandbox.restore(root, pack)

    # -- one checkpoint ---------------------------------------------------------------------------

    async def _fetch(self, key: str) -> tuple[RawCheckpoint, Accepted] | str:
        raw = await self._sandbox.fetch(key, self._mirror.sandbox_head)
        if isinstance(raw, str):
            return raw
        try:
            return raw, await _in_thread(self._mirror.accept, raw)
        except StorageError as error:
            return f"what the sandbox sent was refused: {error.message}"

    def _key(self, call_id: str | None) -> str:
        return call_key(call_id)

    def _recorded_key(self, key: str) -> str:
        """The key as it may stand in a commit message: without a secret."""
        redact = self._mirror.redact
        return key if redact is None or redact(key.encode()) == key.encode() else call_key(f"{key} ")

    def _skipped(self, raw: RawCheckpoint) -> tuple[str, ...]:
        redact = self._mirror.redact or bytes
        return tuple(shown_path(redact(path)) for path in raw.skipped_files)

    def _unchanged(self, warning: str | None) -> CheckpointResult:
        return CheckpointResult(commit=self.head, checkpoint=None, patch=None, warning=warning)

    def _result(self, record: Record, warning: str | None) -> CheckpointResult:
        git = self._mirror.git
        before = record.parent
        if before is None:
            return CheckpointResult(commit=record.commit, checkpoint=None, patch=None, warning=warning)
        checkpoint = RepoCheckpoint(
            commit_before=before,
            commit_after=record.commit,
            changed_files=changed_files(git, before, record.commit),
            skipped_files=record.skipped_files,
        )
        return CheckpointResult(
            commit=record.commit, checkpoint=checkpoint, patch=patch(git, before, record.commit), warning=warning
        )


async def _in_thread[**P, T](function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what blocks on git. It is never abandoned half-way: each git command has its own deadline."""
    return await to_thread.run_sync(partial(function, *args, **kwargs))
