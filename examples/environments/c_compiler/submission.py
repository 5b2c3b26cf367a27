"""A submission: built once, then called for each case in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cheating
from cache import Cache
from cases import Case
from running import Finished, Limits, at_once, remove, run
from settings import CACHE, HERE, Settings

PREFIX = "c-compiler-"
TEXT_CHARS = 8000


class BuildError(Exception):
    """It does not build, or it cheats; shown to the agent."""


@dataclass
class Patience:
    """When to give a compiler up that hangs: else every case would take its whole time."""

    passed: int = 0
    hung: int = 0

    def note(self, *, passed: bool, hung: bool) -> None:
        """Count a case."""
        self.passed += passed
        self.hung += hung


@dataclass
class Submission:
    """What the tests of one session share."""

    given: Path
    """The folder that the runtime unpacked."""
    settings: Settings
    cache: Cache = field(init=False)
    work: Path = field(init=False)
    """A folder that every user can go through: `tree` is the submission, each case has its own beside it."""
    guard: cheating.Guard | None = None
    patience: Patience = field(default_factory=Patience)
    _is_built: bool = False
    _building: asyncio.Lock = field(default_factory=asyncio.Lock)
    _numbers: itertools.count = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.cache = Cache(CACHE, HERE, self.given)
        self.work = make_work_folder()

    @property
    def tree(self) -> Path:
        """The submission, built."""
        return self.work / "tree"

    async def prepare(self) -> None:
        """Find out whether it builds.

        Raises:
            BuildError: It does not, or it cheats.
        """
        async with self.cache.alone("build"):
            known = self.cache.get("build")
            if known is None:
                try:
                    await self.built()
                    known = {"error": ""}
                except BuildError as error:
                    known = {"error": str(error)}
                self.cache.put("build", known)
        if known["error"]:
            raise BuildError(known["error"])

    async def built(self) -> None:
        """Build it, unless that was done. An equal tree whose results are all known is never built.

        Raises:
            BuildError: It does not build, or it cheats.
        """
        async with self._building:
            if self._is_built:
                return
            shutil.copytree(self.given, self.tree, symlinks=True)
            await self._build()
            for place, folders, files in os.walk(self.tree):
                for path in (Path(place, name) for name in (".", *folders, *files)):
                    if not path.is_symlink():
                        path.chmod(
                            path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444)
                        )
            if self.settings.cheat_check:
                self.guard = cheating.set_guard(self.work / "guard")
                if reason := cheating.embedded(self.tree) or await self._probe(self.guard):
                    raise BuildError(f"The submission cheats: {reason}.")
            self._is_built = True

    async def _build(self) -> None:
        if not (self.tree / "build.sh").is_file():
            raise BuildError("There is no build.sh in the workspace.")
        limits = self.settings.build
        keep = ("PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "LANG")
        env = {name: os.environ[name] for name in keep if name in os.environ}
        shell = shutil.which("bash") or "/bin/sh"
        async with at_once(self.settings.jobs):
            done = await run(
                [shell, "build.sh"], folder=self.tree, logs=self.work / "build", env=env, limits=limits, own_user=False
            )
        if done.exit_status != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()[-TEXT_CHARS:]
            raise BuildError(f"build.sh: {done.described(limits)}\n{said}")
        compiler = self.tree / "cc"
        if not compiler.is_file() or not os.access(compiler, os.X_OK):
            raise BuildError("build.sh made no executable ./cc.")

    async def _probe(self, guard: cheating.Guard) -> str:
        """Why it cheats, as a few programs show."""
        for name, source in cheating.PROBES.items():
            case = Case(name=name, files={"main.c": source.encode()}, sources=("main.c",))
            async with self.case_folder(case) as folder:
                found = await self._probe_one(case, folder, guard)
            if found:
                return found
        return guard.tripped()

    async def _probe_one(self, case: Case, folder: CaseFolder, guard: cheating.Guard) -> str:
        tracer = cheating.tracer() or []
        limits = self.settings.compile
        for words in (self.compile_words(case), [str(folder.program)]):
            if folder.program.is_file() or words[0] != str(folder.program):
                await folder.run([*tracer, *words], limits.within(min(5.0, limits.wall_s)))
                found = cheating.judge_trace(folder.place, self.tree, guard)
                if found:
                    return found
        return ""

    def compile_words(self, case: Case) -> list[str]:
        """The call of the compiler for a case."""
        return [str(self.tree / "cc"), *case.sources, "-o", "program", *case.cc_args]

    @contextlib.asynccontextmanager
    async def case_folder(self, case: Case):
        """A folder with a case's files, for as long as it runs; waits for its turn."""
        async with at_once(self.settings.jobs):
            number = next(self._numbers)
            place = self.work / f"case-{number}"
            for name, content in case.files.items():
                path = place / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            folder = CaseFolder(place, self.work / f"logs-{number}", self.guard)
            try:
                yield folder
            finally:
                await asyncio.to_thread(remove, place)
                await asyncio.to_thread(remove, folder.logs)

    def close(self) -> None:
        """Remove what it left."""
        remove(self.work)


@dataclass(frozen=True)
class CaseFolder:
    """Where one case is compiled and run."""

    place: Path
    logs: Path
    guard: cheating.Guard | None

    @property
    def program(self) -> Path:
        """What the compiler makes."""
        return self.place / "program"

    async def run(self, argv: Sequence[str], limits: Limits, stdin: bytes = b"") -> Finished:
        """Run a command in it, under limits, with tripwires for compilers."""
        path = self.guard.path if self.guard else "/usr/local/bin:/usr/bin:/bin"
        env = {"PATH": path, "HOME": str(self.place), "TMPDIR": str(self.place), "LC_ALL": "C"}
        covers = self.guard.covers if self.guard else {}
        return await run(argv, folder=self.place, logs=self.logs, env=env, limits=limits, stdin=stdin, covers=covers)


def make_work_folder() -> Path:
    """A new folder that other users can reach; removes those whose process is gone."""
    parents = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    parent = next((it for it in parents if _is_open(it)), parents[0])
    for old in parent.glob(f"{PREFIX}[0-9]*-*"):
        pid = old.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists() and old.stat().st_uid == os.getuid():
            remove(old)
    made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    made.chmod(0o755)
    return made


def _is_open(folder: Path) -> bool:
    """Whether every user can go to it."""
    path = folder.resolve()
    try:
        return all(it.stat().st_mode & 0o001 for it in (path, *path.parents)) and os.access(path, os.W_OK)
    except OSError:
        return False
