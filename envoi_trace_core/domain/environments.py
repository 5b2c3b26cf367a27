"""An environment: a folder with `main.py` (written with the envoi SDK), and what its tests need."""

from __future__ import annotations

from pathlib import Path

import attrs

from envoi_trace_core.config import parse_toml
from envoi_trace_core.domain.content import absolute_folder, hash_folder
from envoi_trace_core.errors import UsageError
from envoi_trace_core.suggest import did_you_mean

MAIN = "main.py"
SETTINGS = "envoi-trace.toml"
KEYS = ("hidden",)


@attrs.frozen(kw_only=True)
class Environment:
    """What tests an agent's work."""

    name: str
    """The folder's."""
    directory: Path
    """Absolute."""
    main: Path
    setup_sh: Path | None
    """Run in the evaluation sandbox before the runtime starts."""
    dockerfile: Path | None
    hidden: tuple[str, ...]
    """Globs of the test paths that the agent must not see, from `envoi-trace.toml` beside `main.py`."""
    content_hash: str
    """SHA-256 of the folder: 64 hexadecimal digits."""


def load_environment(path: Path) -> Environment:
    """Look at an environment's folder; none of its code is run.

    Raises:
        UsageError: The folder or its `main.py` is missing, or its `envoi-trace.toml` is wrong.
    """
    directory = absolute_folder(path)
    if not directory.is_dir():
        if directory.exists():
            raise UsageError(f"{path} is a file; --env takes an environment's folder", mend=f"--env {path.parent}")
        raise UsageError(f"there is no environment folder {path}", mend=f"--env PATH, a folder with {MAIN}")
    main = directory / MAIN
    if not main.is_file():
        raise UsageError(f"the environment {path} has no {MAIN}", mend=f"write {main} with the envoi SDK")
    try:
        content_hash = hash_folder(directory)
    except OSError as error:
        raise UsageError(f"{error.filename} can't be read: {error.strerror}", mend="ls -l shows why") from error
    return Environment(
        name=directory.name,
        directory=directory,
        main=main,
        setup_sh=_if_file(directory / "setup.sh"),
        dockerfile=_if_file(directory / "Dockerfile"),
        hidden=_hidden(directory / SETTINGS),
        content_hash=content_hash,
    )


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _hidden(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    table = parse_toml(path)
    for key in table:
        if key not in KEYS:
            # A misspelt `hidden` would show the agent what it must not see.
            raise UsageError(
                f"unknown key {key!r} in {path}.{did_you_mean(key, KEYS)}",
                mend=f"an environment's {SETTINGS} takes: {', '.join(KEYS)}",
            )
    hidden = table.get("hidden", [])
    if not isinstance(hidden, list) or not all(isinstance(glob, str) and glob for glob in hidden):
        raise UsageError(f"'hidden' in {path} is no list of test paths", mend='hidden = ["suite/*"]')
    return tuple(hidden)
