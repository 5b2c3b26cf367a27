"""git on the orchestrator's side: bounded, deaf to the user's configuration and to the caller's environment."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from envoi_trace_core.errors import StorageError

TIMEOUT_S = 300.0

NEUTRAL_ATTRIBUTES = (
    "* -text -crlf -eol -ident -filter -working-tree-encoding -export-ignore -export-subst !diff !merge\n"
)
"""For `info/attributes`, which wins over every .gitattributes of a workspace: bytes stay as they are."""

NEUTRAL_CONFIG = """\
[core]
	repositoryformatversion = 0
	bare = true
	autocrlf = false
	fileMode = true
	symlinks = true
	ignoreCase = false
	precomposeUnicode = false
	protectNTFS = false
	protectHFS = false
	quotePath = true
	logAllRefUpdates = false
	hooksPath = /dev/null
	fsmonitor = false
	excludesFile = /dev/null
	attributesFile = /dev/null
	bigFileThreshold = 16m
	{fsync}
[gc]
	auto = 0
[maintenance]
	auto = false
[commit]
	gpgSign = false
[tar]
	umask = 0022
[diff]
	renames = true
	renameLimit = 1000
	algorithm = myers
[transfer]
	fsckObjects = false
	unpackLimit = 1
"""


class GitError(StorageError):
    """A git command failed; the message holds the end of what it said."""


@attrs.frozen(kw_only=True)
class Git:
    """A bare repository, and git's commands on it."""

    directory: Path

    @classmethod
    def create(cls, directory: Path) -> Git:
        """Make a bare repository, or mend one whose making was cut off. Configuration is written anew."""
        git = cls(directory=directory)
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "HEAD").is_file() or not (directory / "objects").is_dir():
            _check(
                subprocess.run(
                    ["git", "init", "-q", "--bare", "--template=", "--object-format=sha1", str(directory)],
                    env=_environment({}),
                    capture_output=True,
                    timeout=TIMEOUT_S,
                    check=False,
                )
            )
        (directory / "info").mkdir(exist_ok=True)
        (directory / "info" / "attributes").write_text(NEUTRAL_ATTRIBUTES)
        (directory / "config").write_text(NEUTRAL_CONFIG.replace("{fsync}", _fsync_setting()))
        return git

    def __call__(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        accept: Sequence[int] = (0,),
    ) -> bytes:
        """Run a command to its end; gives its stdout.

        Raises:
            GitError: It ended with a status that is not in `accept`, or took too long.
        """
        try:
            result = subprocess.run(
                self.argv(*arguments),
                input=stdin,
                env=_environment(env or {}),
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GitError(f"git {arguments[0]} took longer than {timeout_s:.0f} s") from error
        return _check(result, accept)

    def text(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        accept: Sequence[int] = (0,),
    ) -> str:
        """The same, its output as one stripped text."""
        return self(*arguments, stdin=stdin, env=env, accept=accept).decode(errors="replace").strip()

    def open(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command with piped stdin and stdout; the caller ends it. Its stderr is dropped."""
        return subprocess.Popen(
            self.argv(*arguments),
            env=_environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def argv(self, *arguments: str) -> list[str]:
        """The whole command line."""
        return ["git", f"--git-dir={self.directory}", *arguments]


@functools.cache
def _fsync_setting() -> str:
    """How this git is told to put objects and refs on disk before it goes on; git 2.36 has a new name for it."""
    said = subprocess.run(
        ["git", "version"], env=_environment({}), capture_output=True, timeout=TIMEOUT_S, check=True, text=True
    ).stdout
    version = re.search(r"(\d+)\.(\d+)", said)
    is_new = version is not None and (int(version[1]), int(version[2])) >= (2, 36)
    return "fsync = objects,reference" if is_new else "fsyncObjectFiles = true"


def _check(result: subprocess.CompletedProcess[bytes], accept: Sequence[int] = (0,)) -> bytes:
    if result.returncode not in accept:
        said = " ".join(result.stderr.decode(errors="replace").split())[-800:]
        arguments = [word for word in result.args[1:] if not word.startswith("--git-dir=")]
        raise GitError(f"git {' '.join(arguments[:3])} failed ({result.returncode}): {said or 'no message'}")
    return result.stdout


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        "GIT_AUTHOR_NAME": "envoi-trace",
        "GIT_AUTHOR_EMAIL": "envoi-trace@localhost",
        "GIT_COMMITTER_NAME": "envoi-trace",
        "GIT_COMMITTER_EMAIL": "envoi-trace@localhost",
        **more,
    }
