"""What `settings.toml` and `suites.toml` say."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from running import MIB, Limits

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
"""What was fetched and what was found, for the life of the sandbox."""


@dataclass(frozen=True)
class PublicSuite:
    """A suite of others."""

    name: str
    url: str
    commit: str
    folders: tuple[str, ...]
    tests: int

    @property
    def folder(self) -> Path:
        """Where it lies once it is fetched."""
        return CACHE / "suites" / self.name

    @property
    def failure(self) -> Path:
        """A file that says why it could not be fetched."""
        return CACHE / "suites" / f"{self.name}.failed"


@dataclass(frozen=True)
class Settings:
    """All of it."""

    suites: tuple[str, ...]
    basics: tuple[str, ...]
    cheat_check: bool
    jobs: int
    build: Limits
    compile: Limits
    run: Limits
    public: tuple[PublicSuite, ...]


def load_settings(folder: Path = HERE) -> Settings:
    """Read both files.

    Raises:
        KeyError, TypeError, ValueError: They are wrong.
    """
    told = tomllib.loads((folder / "settings.toml").read_text())
    public = tomllib.loads((folder / "suites.toml").read_text())
    return Settings(
        suites=tuple(told["suites"]),
        basics=tuple(told["basics"]),
        cheat_check=told["cheat_check"],
        jobs=told["jobs"],
        build=_limits(told["build"]),
        compile=_limits(told["compile"]),
        run=_limits(told["run"]),
        public=tuple(
            PublicSuite(name, it["url"], it["commit"], tuple(it["folders"]), it["tests"])
            for name, it in public.items()
            if name in told["suites"]
        ),
    )


def _limits(table: dict[str, float]) -> Limits:
    return Limits(
        wall_s=float(table["wall_s"]),
        memory_bytes=int(table["memory_mib"] * MIB),
        output_bytes=int(table["output_kib"] * 1024),
        file_bytes=int(table["file_mib"] * MIB),
        disk_bytes=int(table["disk_mib"] * MIB),
        processes=int(table["processes"]),
    )
