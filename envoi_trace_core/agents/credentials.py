"""Credentials of agents: the order in which they are looked up, and which variables an agent never sees."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

SECRET_NAME_PATTERNS = ("*KEY*", "*TOKEN*", "*SECRET*", "*PASSWORD*", "*CREDENTIAL*")
"""Names of variables that the shell of an agent must not see, as shell patterns, in capitals."""


def first_variable(names: Sequence[str], environ: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """The first of the named variables that is set and not empty: its name and its value."""
    environ = os.environ if environ is None else environ
    return next(((name, environ[name].strip()) for name in names if environ.get(name, "").strip()), None)


def scrubbed(environ: Mapping[str, str], *, keep: Sequence[str] = ()) -> dict[str, str]:
    """The environment without what looks like a credential, but for the names in `keep`."""
    return {
        name: value
        for name, value in environ.items()
        if name in keep or not any(fnmatchcase(name.upper(), pattern) for pattern in SECRET_NAME_PATTERNS)
    }
