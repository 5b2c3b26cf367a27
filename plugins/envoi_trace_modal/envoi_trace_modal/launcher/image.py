"""The function's image: git, Python, and the same versions as here."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from envoi_trace_modal.launcher.distributions import Distributions
from envoi_trace_modal.launcher.options import ModalLauncherOptions

if TYPE_CHECKING:
    import modal

APT_PACKAGES = ("git", "ca-certificates")
FOLDER = "/opt/envoi-trace"


def build_image(distributions: Distributions, options: ModalLauncherOptions, scratch: Path) -> modal.Image:
    """Layers from what changes rarely to what changes often; nothing is built before the app is deployed.

    Args:
        distributions: What it holds.
        options: Name the index.
        scratch: A folder for the wheels, which must live until the app is deployed.
    """
    import modal

    index = options.index_url or None
    image = modal.Image.debian_slim(python_version=distributions.python).apt_install(*APT_PACKAGES)
    if distributions.libraries:
        image = image.pip_install(*distributions.libraries, index_url=index)
    (scratch / "constraints.txt").write_text("".join(f"{line}\n" for line in distributions.libraries))
    for wheel in distributions.wheels:
        (scratch / wheel.file_name).write_bytes(wheel.data)
    image = image.add_local_dir(scratch, FOLDER, copy=True)
    wheels = [f"{FOLDER}/{wheel.file_name}" for wheel in distributions.wheels]
    words = ["python", "-m", "pip", "install", "--no-cache-dir", "--constraint", f"{FOLDER}/constraints.txt"]
    if index:
        words += ["--index-url", index]
    return image.run_commands(shlex.join([*words, *distributions.pins, *wheels]))


def fingerprint(distributions: Distributions, options: ModalLauncherOptions) -> str:
    """Tells apart what would be deployed: the same text, the same function."""
    parts = [
        distributions.python,
        *distributions.pins,
        *distributions.libraries,
        *(f"{wheel.file_name} {wheel.sha256}" for wheel in distributions.wheels),
        repr(options),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
