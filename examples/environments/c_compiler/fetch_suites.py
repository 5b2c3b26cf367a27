"""Fetches the public suites at their pinned commits. A suite that can't be fetched leaves a file that says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from settings import PublicSuite, load_settings

FETCH_TIMEOUT_S = 240
# A server that sends nothing is given up early, and no prompt ever waits for a password.
GIT_ENV = {"GIT_TERMINAL_PROMPT": "0", "GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": "20"}


def git(folder: Path, *words: str) -> None:
    """Run git.

    Raises:
        subprocess.SubprocessError, OSError: It failed, took too long, or is not there.
    """
    subprocess.run(
        ["git", *words], cwd=folder, env={**os.environ, **GIT_ENV}, check=True, timeout=FETCH_TIMEOUT_S,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip


def fetch(suite: PublicSuite) -> str:
    """Fetch one, unless it is there; gives why it failed, or nothing."""
    if (suite.folder / ".complete").is_file():
        return ""
    shutil.rmtree(suite.folder, ignore_errors=True)
    suite.folder.mkdir(parents=True)
    suite.failure.unlink(missing_ok=True)
    try:
        git(suite.folder, "init", "--quiet")
        git(suite.folder, "remote", "add", "origin", suite.url)
        git(suite.folder, "sparse-checkout", "set", *suite.folders)
        # Only the files of these folders are transferred, where the server can leave the others out.
        git(suite.folder, "fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", suite.commit)
        git(suite.folder, "checkout", "--quiet", suite.commit)
    except subprocess.CalledProcessError as error:
        return (error.stderr or "").strip()[-300:] or f"git ended with {error.returncode}"
    except subprocess.TimeoutExpired:
        return f"git did not end within {FETCH_TIMEOUT_S} s"
    except OSError as error:
        return f"git can't be run: {error.strerror}"
    shutil.rmtree(suite.folder / ".git", ignore_errors=True)
    (suite.folder / ".complete").touch()
    return ""


def main() -> None:
    """Fetch all; never fails, as what is missing is told by its tests."""
    for suite in load_settings().public:
        reason = fetch(suite)
        if reason:
            suite.failure.write_text(f"it could not be fetched from {suite.url}: {reason}\n")
        sys.stdout.write(f"{suite.name}: {reason or 'fetched'}\n")


if __name__ == "__main__":
    main()
