"""The environment's envoi runtime in a sandbox: uploaded, set up, started, watched, restarted.

Whatever fails here is the environment's fault or the sandbox's, never the submission's: a submission that does not
build, fails, crashes or runs too long gives a `TestRun` that says so.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio
import anyio.to_thread
import attrs

from envoi_trace_core.domain.solving import below
from envoi_trace_core.errors import HarnessError, SandboxLostError, SandboxTimeoutError
from envoi_trace_core.harness import runner
from envoi_trace_core.harness.results import RuntimeLostError, TestRun, json_object, read_answer
from envoi_trace_core.harness.setup import prepare_environment
from envoi_trace_core.harness.upload import pack_submission
from envoi_trace_core.protocols import CommandResult, Sandbox
from envoi_trace_core.sandboxing.bootstrap import harness_python
from envoi_trace_core.sandboxing.detached import DetachedProcess

if TYPE_CHECKING:
    from envoi_trace_core.domain.environments import Environment

COMMAND_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
LOG_TAIL_BYTES = 4000
MAX_STARTS = 3
MAX_RESTARTS = 20
MAX_TEST_PATHS = 100_000
MARGIN_S = 120.0
"""How long a runner may live on after its own deadline: it ends its session, which runs the teardown."""


@attrs.frozen(kw_only=True)
class EnvironmentSchema:
    """What the environment tests."""

    test_paths: tuple[str, ...]
    """Leaf paths, sorted. A path with `{parameters}` runs only when it is asked for by value, so it is not here."""
    requires_session: bool


class Runtime(Protocol):
    """What runs an environment's tests."""

    @property
    def schema(self) -> EnvironmentSchema:
        """What the environment tests."""
        ...

    async def test(self, tree: Path, paths: Sequence[str] | None = None, *, timeout_s: float) -> TestRun:
        """See `EnvoiRuntime.test`."""
        ...


@attrs.define(kw_only=True)
class EnvoiRuntime:
    """Enter it to set the environment up and start its runtime; leave it to stop the runtime.

    Raises (on entering):
        HarnessError: setup.sh failed, the runtime did not come up, or its schema holds no test.
        SandboxError: The sandbox failed.
    """

    sandbox: Sandbox
    environment: Environment
    report: Callable[[str], None] = attrs.field(default=lambda _line: None)
    setup_timeout_s: float = 1800.0
    start_timeout_s: float = 120.0

    setup_log: str = attrs.field(default="", init=False)
    """The end of what setup.sh wrote; all of it is in the sandbox, in `setup.log`."""
    restarts: int = attrs.field(default=0, init=False)
    _schema: EnvironmentSchema | None = attrs.field(default=None, init=False)
    _python: tuple[str, ...] = attrs.field(default=(), init=False)
    """The command that runs the harness's Python as setup.sh left it."""
    _port: int = attrs.field(default=0, init=False)
    _process: DetachedProcess | None = attrs.field(default=None, init=False)
    _generation: int = attrs.field(default=0, init=False)
    _mending: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)

    @property
    def directory(self) -> str:
        """The folder in the sandbox in which the harness keeps its things."""
        return f"{self.sandbox.support_dir}/harness"

    @property
    def schema(self) -> EnvironmentSchema:
        """Known once the runtime was entered."""
        assert self._schema is not None, "the runtime was not started"
        return self._schema

    async def __aenter__(self) -> Self:
        source = await anyio.Path(runner.__file__).read_bytes()
        await self.sandbox.write_file(f"{self.directory}/runner.py", source)
        python = await harness_python(self.sandbox, report=self.report)
        prepared = await prepare_environment(
            self.sandbox, self.environment, python=python, directory=self.directory, timeout_s=self.setup_timeout_s
        )
        self._python, self.setup_log = prepared.python, prepared.log
        await self._end_earlier()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def test(self, tree: Path, paths: Sequence[str] | None = None, *, timeout_s: float) -> TestRun:
        """Build the submission in `tree` and run tests on it. Several may go on at once.

        Args:
            tree: An exported commit, on our side.
            paths: Leaves of the schema; None for all of them.
            timeout_s: For the build and the tests together; what did not end by then failed.

        Raises:
            HarnessError: The runtime or the runner failed, twice.
            SandboxError: The sandbox failed.
        """
        leaves = self.schema.test_paths if paths is None else tuple(paths)
        archive = await anyio.to_thread.run_sync(pack_submission, tree)
        requests = plan_requests(self.schema.test_paths, leaves)
        error = ""
        for _ in range(2):
            generation = self._generation
            try:
                return await self._run(archive, requests, leaves, timeout_s)
            except RuntimeLostError as lost:
                error = str(lost)
                await self._mend(generation)
        raise HarnessError(f"The environment's runtime died twice under the same tests: {error}\n{await self._said()}")

    async def _run(
        self, archive: bytes, requests: Sequence[dict[str, Any]], leaves: Sequence[str], timeout_s: float
    ) -> TestRun:
        request = {
            "port": self._port,
            "requires_session": self.schema.requires_session,
            "timeout_s": timeout_s,
            "requests": list(requests),
        }
        started = time.monotonic()
        try:
            result = await self._runner(
                "test", stdin=json.dumps(request).encode() + b"\n" + archive, timeout_s=timeout_s + MARGIN_S
            )
        except SandboxTimeoutError as error:
            raise HarnessError(f"The test runner did not end {MARGIN_S:.0f} s after its deadline.") from error
        duration_ms = int((time.monotonic() - started) * 1000)
        if result.exit_code:
            said = result.stderr.decode(errors="replace").strip()[-LOG_TAIL_BYTES:]
            raise HarnessError(f"The test runner in the evaluation sandbox failed: {said or result.exit_code}")
        return read_answer(result.stdout, leaves, duration_ms)

    async def _runner(self, *arguments: str, stdin: bytes = b"", timeout_s: float) -> CommandResult:
        argv = [*self._python, "-I", f"{self.directory}/runner.py", *arguments]
        return await self.sandbox.run(
            argv, stdin=stdin, timeout_s=timeout_s, cwd="/", max_output_bytes=64 * 1024 * 1024
        )

    # -- its process ------------------------------------------------------------------------------

    async def _mend(self, generation: int) -> None:
        """Start the runtime again, unless another test that saw the same death did so already."""
        async with self._mending:
            if generation != self._generation:
                return
            if self.restarts >= MAX_RESTARTS:
                raise HarnessError(f"The environment's runtime died {MAX_RESTARTS + 1} times.\n{await self._said()}")
            self.restarts += 1
            self.report("The environment's runtime died; it is started again.")
            await self._stop()
            await self._start()

    async def _start(self) -> None:
        for attempt in range(1, MAX_STARTS + 1):
            schema = await self._start_once()
            if schema is not None:
                self._schema = _read_schema(schema, self.environment.main.name)
                self._generation += 1
                return
            said = await self._said()
            # Another process may have taken the port since it was free.
            if "address already in use" not in said or attempt == MAX_STARTS:
                break
        raise HarnessError(
            f"The environment's runtime did not come up ({self.environment.main.name}):\n{said}",
            mend=f"python -m envoi.runtime --file {self.environment.main}",
        )

    async def _start_once(self) -> Any:
        """Start a process; gives its schema, or None when it ended or does not answer in time."""
        answer = json_object((await self._runner("port", timeout_s=COMMAND_TIMEOUT_S)).stdout)
        self._port = int(answer["port"])
        name = f"envoi-runtime-{uuid.uuid4().hex[:12]}"
        await self.sandbox.write_file(f"{self.directory}/runtime", name.encode())
        main = f"{self.directory}/environment/{self.environment.main.name}"
        argv = [*self._python, "-u", "-m", "envoi.runtime", "--file", main, "--host", "127.0.0.1"]
        self._process = await DetachedProcess.start(
            self.sandbox, name=name, argv=[*argv, "--port", str(self._port)], cwd=f"{self.directory}/environment"
        )
        deadline = time.monotonic() + self.start_timeout_s
        while time.monotonic() < deadline:
            found = await self._runner("schema", str(self._port), "1.0", timeout_s=COMMAND_TIMEOUT_S)
            answer = json_object(found.stdout)
            if "schema" in answer:
                return answer["schema"]
            if not answer.get("waiting"):
                raise HarnessError(f"The environment's runtime gives no schema: {str(answer.get('error'))[:4000]}")
            if await self._process.exit_code() is not None or not await self._process.is_alive():
                return None
        return None

    async def _said(self) -> str:
        """The runtime's own last lines."""
        if self._process is None:
            return ""
        tail = (await self._process.stderr_tail(LOG_TAIL_BYTES)).decode(errors="replace").strip()
        return tail or "It wrote nothing."

    async def _stop(self) -> None:
        # In a sandbox that is lost nothing runs any more.
        with anyio.move_on_after(STOP_TIMEOUT_S, shield=True), suppress(SandboxLostError):
            if self._process is not None:
                await self._process.kill()

    async def _end_earlier(self) -> None:
        """End the runtime that an orchestrator before this one left in the sandbox."""
        read = ["sh", "-c", 'head -c 200 "$1" 2>/dev/null || :', "sh", f"{self.directory}/runtime"]
        name = (await self.sandbox.run(read, timeout_s=COMMAND_TIMEOUT_S, cwd="/")).stdout.decode(errors="replace")
        earlier = await DetachedProcess.attach(self.sandbox, name) if name.startswith("envoi-runtime-") else None
        if earlier is not None:
            await earlier.kill()


def plan_requests(test_paths: Sequence[str], leaves: Sequence[str]) -> list[dict[str, Any]]:
    """The fewest requests that run these leaves and no other: one for a whole suite, else leaf by leaf.

    Returns:
        Of each: the path to ask for, the leaves wanted of it, and whether the answer is that of the leaf itself
        (a leaf that is also a suite can't be asked for alone: what else comes is dropped where it arises).
    """
    wanted = set(leaves)
    common = _common_prefix(leaves)
    for prefix in dict.fromkeys(("", common)):
        if set(below(test_paths, prefix)) == wanted:
            return [{"path": prefix, "leaves": list(leaves), "alone": wanted == {prefix}}]
    return [{"path": leaf, "leaves": [leaf], "alone": below(test_paths, leaf) == (leaf,)} for leaf in leaves]


def _common_prefix(leaves: Sequence[str]) -> str:
    if len(leaves) == 1:
        return leaves[0]
    common: list[str] = []
    for segments in zip(*(leaf.split("/") for leaf in leaves), strict=False):
        if len(set(segments)) > 1:
            break
        common.append(segments[0])
    return "/".join(common)


def _read_schema(schema: Any, main: str) -> EnvironmentSchema:
    tests = schema.get("tests") if isinstance(schema, dict) else None
    capabilities = schema.get("capabilities") if isinstance(schema, dict) else None
    requires_session = capabilities.get("requires_session") if isinstance(capabilities, dict) else None
    if not isinstance(tests, list) or not isinstance(requires_session, bool) or len(tests) > MAX_TEST_PATHS:
        raise HarnessError(f"The schema of {main} is not one that envoi writes: {str(schema)[:500]}")
    paths = tuple(path for path in tests if isinstance(path, str) and "{" not in path)
    if not paths:
        raise HarnessError(
            f"{main} defines no test that can run by itself, so nothing could ever be solved.",
            mend="add a function with @envoi.test() or @suite.test() to it",
        )
    return EnvironmentSchema(test_paths=paths, requires_session=requires_session)
