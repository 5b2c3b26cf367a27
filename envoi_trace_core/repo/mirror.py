"""The orchestrator's mirror of a workspace's history: a bare repository to which history is only appended.

    refs/heads/trajectory   the record: commits made here, of trees that came from the sandbox
    refs/heads/tests/*      commits of test calls whose workspace no part recorded
    refs/parts/*            parts whose record is a test call's commit
    refs/sandbox/head       the sandbox's newest commit that was accepted

Everything here blocks; `repository.py` calls it in a thread. An object is on disk before a ref names it, so a
kill at any moment leaves a mirror that opens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import attrs

from envoi_trace_core.errors import StorageError
from envoi_trace_core.repo.checkpoints import MAX_PACK_BYTES, RawCheckpoint
from envoi_trace_core.repo.git import Git, GitError
from envoi_trace_core.repo.records import Origin, Record, read_record, write_record
from envoi_trace_core.repo.redacted_trees import Redact, RedactedTrees

RECORD_REF = "refs/heads/trajectory"
SANDBOX_REF = "refs/sandbox/head"
UNPACK_LIMIT = 1000
"""A pack with fewer objects becomes loose objects: ten thousand parts shall not make ten thousand packs."""
MAX_CHAIN = 100_000
MAX_KNOWN_TREES = 1000

# A workspace's files may look like git's own and be damaged as such; they are only bytes to us.
_TOLERATED = (
    *("hasDotgit", "zeroPaddedFilemode", "fullPathname", "largePathname"),
    *("gitmodulesMissing", "gitmodulesBlob", "gitmodulesLarge", "gitmodulesName", "gitmodulesSymlink"),
    *("gitmodulesUrl", "gitmodulesPath", "gitmodulesUpdate", "gitmodulesParse"),
    *("gitattributesMissing", "gitattributesLarge", "gitattributesLineLength", "gitattributesBlob"),
    *("gitattributesSymlink", "gitignoreSymlink", "mailmapSymlink"),
    *("symlinkTargetMissing", "symlinkTargetBlob", "symlinkTargetLength", "symlinkPointsToGitDir"),
)


@attrs.frozen(kw_only=True)
class Accepted:
    """A sandbox's commit whose objects are in the mirror."""

    commit: str
    tree: str
    tampered: str | None
    """How its history differs from the one that was recorded; None when it goes on from it."""
    is_older: bool = False
    """Whether a newer one was accepted before: of a parallel call whose part came later."""


def pack_without_history(git: Git, tree: str, commit: str) -> tuple[str, bytes]:
    """A commit of a tree that has no parent, always the same one, and the pack of all that it needs.

    Raises:
        GitError: The repository does not hold the tree.
    """
    date = "@0 +0000"
    root = git.text(
        "commit-tree", tree, "-m", f"restore {commit}", env={"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    )
    return root, git("pack-objects", "--revs", "--stdout", "-q", stdin=f"{root}\n".encode())


@attrs.define(kw_only=True)
class Mirror:
    """The mirror of one trajectory. One at a time: the holder of the trajectory."""

    git: Git
    head: Record | None
    sandbox_head: str | None
    redact: Redact | None
    _trees: RedactedTrees | None
    _strict: str
    _test_records: dict[str, Record]
    _part_refs: dict[str, str]
    _trees_of: dict[str, str] = attrs.field(factory=dict, init=False)
    """Of commits that were asked about lately: each would be asked about several times."""

    @classmethod
    def open(cls, directory: Path, *, redact: Redact | None = None) -> Mirror:
        """Open the mirror, or make it. What a killed holder left half-done is taken away.

        Raises:
            StorageError: It can't be made, or is damaged.
        """
        try:
            git = Git.create(directory)
            _clear_stale(directory)
            mirror = cls(
                git=git,
                head=None,
                sandbox_head=None,
                redact=redact,
                trees=RedactedTrees(git=git, redact=redact) if redact else None,
                strict=_strictness(git),
                test_records={},
                part_refs={},
            )
            mirror._load()
        except OSError as error:
            raise StorageError(f"the repository's mirror {directory} can't be opened: {error}") from error
        return mirror

    def _load(self) -> None:
        self.git("symbolic-ref", "HEAD", RECORD_REF)
        self.head = read_record(self.git, RECORD_REF)
        self.sandbox_head = self.git.text("rev-parse", "--verify", "-q", SANDBOX_REF, accept=(0, 1)) or None
        self._part_refs = {}
        self._test_records = {}
        for line in self.git.text("for-each-ref", "--format=%(objectname) %(refname)").splitlines():
            commit, _, name = line.partition(" ")
            if name.startswith("refs/parts/"):
                self._part_refs[name] = commit
            elif name.startswith("refs/heads/tests/") and (record := read_record(self.git, commit)):
                self._test_records[record.tree] = record

    # -- taking what the sandbox made -------------------------------------------------------------

    def accept(self, raw: RawCheckpoint) -> Accepted:
        """Take the objects of a sandbox's commit, checked, and see whether its history goes on from ours.

        Raises:
            GitError: The objects are damaged or incomplete.
        """
        if raw.pack:
            self._unpack(raw.pack)
        if raw.commit == self.sandbox_head:
            return Accepted(commit=raw.commit, tree=self.tree_of(raw.commit), tampered=None)
        return self._judge(raw.commit)

    def _unpack(self, pack: bytes) -> None:
        limit = f"--max-input-size={MAX_PACK_BYTES}"
        if pack[:4] != b"PACK" or len(pack) < 32:
            raise GitError("the sandbox sent no pack")
        if int.from_bytes(pack[8:12]) < UNPACK_LIMIT:
            self.git("unpack-objects", "-q", self._strict, limit, stdin=pack)
        else:
            self.git("index-pack", "--stdin", "--fix-thin", self._strict, limit, stdin=pack)

    def _judge(self, commit: str) -> Accepted:
        """Whether the commit's history goes on from the one that was accepted."""
        last = self.sandbox_head or (self.head.sandbox_commit if self.head else None)
        known = self.sandbox_head is not None  # A mirror made anew from bundles holds the record only.
        bounds = (commit, f"^{last}") if known else (commit,)
        listed = self.git.text("rev-list", "--format=%T %P", f"--max-count={MAX_CHAIN}", *bounds)
        lines = [line for line in listed.splitlines() if not line.startswith("commit ")]
        if not lines:
            return Accepted(commit=commit, tree=self.tree_of(commit), tampered=None, is_older=True)
        tree = self._know_tree(commit, lines[0].split()[0])
        oldest = lines[-1].split()
        parents = oldest[1:]
        goes_on = parents == [last] if known else any(last in line.split()[1:] for line in lines)
        if last is None or goes_on:
            return Accepted(commit=commit, tree=tree, tampered=None)
        began = f"goes on from {parents[0][:12]}" if parents else "has no history"
        tampered = f"commit {commit[:12]} of the sandbox {began}, not from {last[:12]}, the last one recorded"
        return Accepted(commit=commit, tree=tree, tampered=tampered)

    def tree_of(self, commit: str) -> str:
        """The hash of a commit's tree.

        Raises:
            GitError: There is no such commit.
        """
        tree = self._trees_of.get(commit)
        if tree is None:
            tree = self._know_tree(commit, self.git.text("rev-parse", "--verify", f"{commit}^{{tree}}"))
        return tree

    def _know_tree(self, commit: str, tree: str) -> str:
        if len(self._trees_of) >= MAX_KNOWN_TREES:
            self._trees_of.clear()
        self._trees_of[commit] = tree
        return tree

    # -- recording --------------------------------------------------------------------------------

    def find(self, origin: Origin) -> Record | None:
        """The record that was made for this very part before the holder died."""
        if self.head is not None and self.head.is_of(origin):
            return self.head
        commit = self._part_refs.get(origin.ref_name)
        record = read_record(self.git, commit) if commit else None
        if record is not None and record.parent == (self.head.commit if self.head else None):
            # Killed after the part was named, before the record moved.
            self.git("update-ref", RECORD_REF, record.commit)
            self.head = record
        return record

    def record(self, accepted: Accepted, *, origin: Origin, skipped_files: Sequence[str]) -> Record | None:
        """Append what was accepted to the record; None when it is what the record holds already."""
        tree = self._clean_tree(accepted.tree)
        skipped = tuple(skipped_files)
        if self._is_unchanged(tree, skipped):
            self._move({}, accepted)
            return None
        parent = self.head.commit if self.head else None
        tested = self._test_records.get(tree)
        if tested is not None and tested.parent == parent and tested.skipped_files == skipped:
            # The part's ref first, and alone: of a transaction that is cut off some refs have moved, and a record
            # that no part names would pass for a workspace that did not change.
            self.git("update-ref", origin.ref_name, tested.commit)
            self._move({RECORD_REF: tested.commit, _test_ref(tested.commit): None}, accepted)
            self._part_refs[origin.ref_name] = tested.commit
            del self._test_records[tree]
            record = tested
        else:
            record = write_record(
                self.git, tree=tree, parent=parent, origin=origin, at=origin.at,
                sandbox_commit=accepted.commit, skipped_files=skipped,
            )  # fmt: skip
            self._move({RECORD_REF: record.commit}, accepted)
        self._know_tree(record.commit, record.tree)
        self.head = record
        return record

    def record_test(self, accepted: Accepted, *, at: datetime, skipped_files: Sequence[str]) -> Record:
        """A commit of the workspace as it is at a test call; the part that comes next takes it if nothing changed."""
        tree = self._clean_tree(accepted.tree)
        skipped = tuple(skipped_files)
        if self.head is not None and self._is_unchanged(tree, skipped):
            return self.head
        parent = self.head.commit if self.head else None
        made = self._test_records.get(tree)
        if made is not None and made.parent == parent and made.skipped_files == skipped:
            return made
        record = write_record(
            self.git, tree=tree, parent=parent, origin=None, at=at,
            sandbox_commit=accepted.commit, skipped_files=skipped,
        )  # fmt: skip
        self._move({_test_ref(record.commit): record.commit}, accepted)
        self._test_records[tree] = record
        return record

    def _is_unchanged(self, tree: str, skipped: tuple[str, ...]) -> bool:
        if self.head is None or tree != self.head.tree:
            return False
        return set(skipped) <= set(self.head.skipped_files)

    def _clean_tree(self, raw_tree: str) -> str:
        return raw_tree if self._trees is None else self._trees.of(raw_tree)

    def _move(self, refs: dict[str, str | None], accepted: Accepted) -> None:
        """Move refs in one transaction. A kill in its middle leaves some moved, in the order that they stand in."""
        # A parallel call's older commit doesn't set the sandbox's newest one back.
        sandbox_head = self.sandbox_head if accepted.is_older else accepted.commit
        moves = dict(refs)
        if sandbox_head != self.sandbox_head:
            moves[SANDBOX_REF] = sandbox_head
        if not moves:
            return
        lines = [f"update {name} {commit}" if commit else f"delete {name}" for name, commit in moves.items()]
        self.git("update-ref", "--stdin", stdin=("\n".join(["start", *lines, "prepare", "commit"]) + "\n").encode())
        self.sandbox_head = sandbox_head

    def restart_from(self, commit: str) -> tuple[str, bytes]:
        """For a new sandbox: a commit without history of a recorded tree, and the pack of all it needs."""
        root, pack = pack_without_history(self.git, self.tree_of(commit), commit)
        self.git("update-ref", SANDBOX_REF, root)
        self.sandbox_head = root
        if self.head is not None and self.head.commit != commit:
            # A commit that no part names: the holder died between the mirror and the journal. What made it is
            # done again, and must be seen to change something.
            self.git("update-ref", RECORD_REF, commit)
            self.head = read_record(self.git, commit)
        return root, pack

    # -- bundles ----------------------------------------------------------------------------------

    def import_bundles(self, paths: Sequence[Path]) -> None:
        """Take the history of stored bundles, oldest first, into a mirror that may be empty or behind.

        Raises:
            StorageError: One is damaged, or contradicts the record.
        """
        for path in paths:
            try:
                self.git("bundle", "verify", str(path))
                self.git(
                    "fetch", "-q", "--no-tags", "--no-write-fetch-head", str(path), "+refs/heads/*:refs/imported/*"
                )
                self._take_imported()
            except GitError as error:
                raise StorageError(f"the bundle {path.name} can't be taken into the mirror: {error.message}") from error
        self._load()

    def _take_imported(self) -> None:
        """Move the record forward to what was imported: never back, never aside."""
        moves = []
        for line in self.git.text("for-each-ref", "--format=%(objectname) %(refname)", "refs/imported").splitlines():
            commit, _, name = line.partition(" ")
            target = name.replace("refs/imported/", "refs/heads/", 1)
            moves.append(f"delete {name}")
            if target != RECORD_REF or self._is_ahead(commit):
                moves.append(f"update {target} {commit}")
        self.git("update-ref", "--stdin", stdin=("\n".join(moves) + "\n").encode())

    def _is_ahead(self, commit: str) -> bool:
        head = read_record(self.git, RECORD_REF)
        if head is None:
            return True
        if self.git.text("rev-list", "--max-count=1", commit, f"^{head.commit}") == "":
            return False
        if self.git.text("rev-list", "--max-count=1", head.commit, f"^{commit}") == "":
            return True
        raise GitError(f"its record ({commit[:12]}) goes another way than the mirror's ({head.commit[:12]})")


def _test_ref(commit: str) -> str:
    return f"refs/heads/tests/{commit[:16]}"


def _clear_stale(directory: Path) -> None:
    """Take away locks and temporary files of a killed git: nobody else works here while we hold the trajectory."""
    for pattern in ("*.lock", "refs/**/*.lock", "objects/*/tmp_obj_*", "objects/pack/tmp_*", "index-*/*", "index-*"):
        for path in directory.glob(pattern):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


_strict_of_this_git: list[str] = []
"""Found once a program: of many trajectories at once, each would ask git half a dozen times."""


def _strictness(git: Git) -> str:
    """The option that checks objects, with the messages that this git knows tolerated."""
    if not _strict_of_this_git:
        _strict_of_this_git.append(_find_strictness(git))
    return _strict_of_this_git[0]


def _find_strictness(git: Git) -> str:
    known = list(_TOLERATED)
    while True:
        option = "--strict=" + ",".join(f"{name}=ignore" for name in known)
        try:
            git("unpack-objects", "-q", "-n", option, stdin=b"")
        except GitError as error:
            unknown = re.search(r"[Uu]nhandled message id: (\w+)", error.message)
            if unknown is None:
                return option  # It took the option, and complains that there is no pack.
            left = [name for name in known if name.lower() != unknown[1].lower()]
            if len(left) == len(known):
                return "--strict"
            known = left
        else:
            return option
