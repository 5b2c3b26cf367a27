"""The secrets that must be redacted: those of the environment and of the shared files, found without a network."""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
_FILES = (("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config"))


def known_secrets() -> Mapping[str, str]:
    """Name to value of every AWS secret that stands here, of all profiles: one too many is harmless.

    Credentials that a service hands out during the run (SSO, a role of the machine) are not among them; they never
    leave the process that signs with them.
    """
    found = {name: os.environ[name] for name in SECRET_VARIABLES if os.environ.get(name)}
    for variable, default in _FILES:
        for name, value in _file_secrets(Path(os.environ.get(variable) or default).expanduser()):
            if value not in found.values():
                found[name] = value
    return found


def _file_secrets(path: Path) -> Iterator[tuple[str, str]]:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error):
        return  # boto3 will say what is wrong with it, if it is needed at all
    for section in parser.sections():
        profile = "".join(letter if letter.isalnum() else "_" for letter in section.removeprefix("profile ")).upper()
        for variable in SECRET_VARIABLES:
            value = parser.get(section, variable.lower(), fallback="").strip()
            if value:
                yield f"{variable}_{profile}", value
