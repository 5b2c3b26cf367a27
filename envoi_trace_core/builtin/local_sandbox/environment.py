"""The environment that commands in a local sandbox get: minimal, and never the orchestrator's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from envoi_trace_core.builtin.local_sandbox.ending import MARK
from envoi_trace_core.builtin.local_sandbox.folders import SandboxFolder
from envoi_trace_core.builtin.local_sandbox.isolation import HOME_INSIDE
from envoi_trace_core.errors import UsageError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXY_NAMES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ALL_PROXY")
CA_NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


def base_environment(folder: SandboxFolder, *, isolated: bool, read: Sequence[Path]) -> dict[str, str]:
    """PATH, HOME, LANG and the like; of the orchestrator's environment only proxies and certificates."""
    more = [str(path / "bin") if (path / "bin").is_dir() else str(path) for path in read if path.is_dir()]
    system = SYSTEM_PATH if isolated else os.environ.get("PATH", SYSTEM_PATH)
    passed = {
        name: os.environ[name]
        for name in (*PROXY_NAMES, *(proxy.lower() for proxy in PROXY_NAMES), *CA_NAMES)
        if name in os.environ
    }
    return {
        **passed,
        # This Python's folder comes last: it is for a machine that has no other.
        "PATH": ":".join([*more, system, str(Path(sys.executable).parent)]),
        "HOME": HOME_INSIDE if isolated else str(folder.home),
        "TMPDIR": "/tmp" if isolated else str(folder.tmp),  # noqa: S108 - the sandbox's own
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        MARK: folder.mark,
    }


def ca_files() -> list[Path]:
    """The certificates that the environment names, as far as they exist."""
    named = (Path(os.environ[name]) for name in CA_NAMES if os.environ.get(name))
    return [path for path in named if path.is_absolute() and path.exists()]


def readable_paths(words: str) -> list[Path]:
    """The paths of the option `read`.

    Raises:
        UsageError: One does not exist.
    """
    paths = [Path(word).expanduser().absolute() for word in words.split(":") if word]
    for path in paths:
        if not path.exists():
            raise UsageError(f"The local sandbox can't show {path}: there is no such file or folder.")
    return paths
