"""Templates: named after their content, built once, refused with the line at fault before anything is built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import attrs
import pytest
from e2b_fake.server import FakeE2b
from envoi_trace_e2b.options import E2bOptions
from envoi_trace_e2b.plugin import E2B_SANDBOX
from envoi_trace_e2b.recipe import HARNESS_PYTHON
from envoi_trace_e2b.templates import choose_template

from envoi_trace_core.errors import SandboxError, UsageError
from envoi_trace_core.sandboxing.bootstrap import harness_python
from envoi_trace_core.specs import Requirements, SandboxRequest

DOCKERFILE = """\
FROM python:3.12-slim
ENV FROM_IMAGE=yes
# nothing runs this
CMD ["sleep", "1"]
RUN apt-get update && apt-get install -y gcc
COPY data /opt/data
RUN cp /opt/data/one.txt /opt/two.txt
WORKDIR /opt
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    folder = tmp_path / "My Env"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "one.txt").write_text("one")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


def request_for(folder: Path | None, name: str = "n1", **more: object) -> SandboxRequest:
    dockerfile = folder / "Dockerfile" if folder is not None else None
    given = {"trajectory_id": "t1", "role": "agent", "lifetime_s": 600, "runs_model": True, "dockerfile": dockerfile}
    return SandboxRequest(name=name, **{**given, **more})


@pytest.mark.anyio
async def test_a_dockerfile_becomes_a_template(fake: FakeE2b, environment: Path) -> None:
    reports: list[str] = []
    requirements = Requirements(apt=("jq",), pip=("tool==1",), npm=("thing",), commands=("touch /opt/ran",))
    request = request_for(environment, requirements=requirements, report=reports.append)
    sandbox = await E2B_SANDBOX.create(request, E2bOptions())
    script = 'cat /opt/two.txt; ls /opt/ran; echo "$FROM_IMAGE"; pwd'
    done = await sandbox.run(["sh", "-c", script], timeout_s=20)
    assert done.stdout == b"one/opt/ran\nyes\n/workspace\n"
    assert sandbox.python == HARNESS_PYTHON
    assert await harness_python(sandbox, report=reports.append) == HARNESS_PYTHON
    (build,) = fake.builds
    assert [line for line in reports if "building the E2B template" in line] == reports
    assert build.source == "python:3.12-slim"
    installed = "\n".join(build.not_run)
    for words in ("install -y gcc", "install -y jq", "pip install", "tool==1", "npm install --global", "envoi-ai=="):
        assert words in installed
    assert build.name.startswith("envoi-trace-my-env-")
    await sandbox.close()
    assert fake.live() == []


@pytest.mark.anyio
async def test_without_a_dockerfile_the_base_is_built_on(fake: FakeE2b) -> None:
    sandbox = await E2B_SANDBOX.create(request_for(None), E2bOptions())
    assert sandbox.python == HARNESS_PYTHON
    assert fake.builds[0].source == "base"
    await sandbox.close()
    other = await E2B_SANDBOX.create(request_for(None), E2bOptions(base_image="debian:13"))
    assert fake.builds[1].source == "debian:13"
    await other.close()


@pytest.mark.anyio
async def test_a_template_is_built_once_also_by_two_at_once(fake: FakeE2b, environment: Path) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(E2B_SANDBOX.create, request_for(environment, f"n{number}"), E2bOptions())
    assert len(fake.builds) == 1
    again = await E2B_SANDBOX.create(request_for(environment, "n4"), E2bOptions())
    assert len(fake.builds) == 1
    assert len(fake.live()) == 4
    await again.close()


CREATE = """
import sys
from pathlib import Path
import anyio
from envoi_trace_core.specs import SandboxRequest
from envoi_trace_e2b.options import E2bOptions
from envoi_trace_e2b.plugin import E2B_SANDBOX
request = SandboxRequest(name=sys.argv[2], trajectory_id="t", role="agent", lifetime_s=600, runs_model=True,
                         dockerfile=Path(sys.argv[1]))
anyio.run(E2B_SANDBOX.create, request, E2bOptions())
"""


@pytest.mark.slow
def test_a_template_is_built_once_also_by_two_programs_at_once(fake: FakeE2b, environment: Path) -> None:
    words = [sys.executable, "-c", CREATE, str(environment / "Dockerfile")]
    running = [subprocess.Popen([*words, f"n{number}"], stderr=subprocess.PIPE) for number in range(2)]
    said = [process.communicate(timeout=100)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert len(fake.builds) == 1
    assert len(fake.live()) == 2


@pytest.mark.anyio
async def test_the_build_of_another_machine_is_waited_for(fake: FakeE2b, environment: Path) -> None:
    first = await E2B_SANDBOX.create(request_for(environment), E2bOptions())
    (build,) = fake.builds
    fake.do(lambda: setattr(build, "status", "building"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(E2B_SANDBOX.create, request_for(environment, "n2"), E2bOptions())
        await anyio.sleep(0.5)
        assert len(fake.live()) == 1
        fake.do(lambda: setattr(build, "status", "ready"))
    assert (len(fake.live()), len(fake.builds)) == (2, 1)
    await first.close()


def test_the_name_follows_the_content(environment: Path) -> None:
    def name(options: E2bOptions | None = None, **more: object) -> str:
        return choose_template(request_for(environment, **more), options or E2bOptions()).name

    first = name()
    assert name() == first
    names = {first, name(E2bOptions(cpu=4)), name(requirements=Requirements(pip=("x",)))}
    (environment / "data" / "one.txt").write_text("two")
    names.add(name())
    (environment / "main.py").write_text("not copied")
    assert name() in names
    (environment / "Dockerfile").write_text(DOCKERFILE + "RUN true\n")
    names.add(name())
    assert len(names) == 5


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("FROM a\nRUN x\nFROM b\n", 3, "second FROM"),
        ("FROM a AS one\nCOPY --from=one /x /y\n", 2, "COPY --from"),
        ("FROM a\nRUN \\\n  --mount=type=cache,target=/c x\n", 2, "RUN --mount"),
        ('FROM a\n\nSHELL ["sh"]\n', 3, "no SHELL"),
        ("FROM a\nONBUILD RUN x\n", 2, "no ONBUILD"),
        ("FROM a\nHEALTHCHECK NONE\n", 2, "no HEALTHCHECK"),
        ("FROM a\nCOPY missing.txt /x\n", 2, "missing.txt"),
        ("FROM a\nUSER\n", 2, "USER"),
        ("RUN x\nFROM a\n", 1, "RUN"),
        ("# nothing\n", 1, "FROM"),
    ],
)
@pytest.mark.anyio
async def test_what_can_not_be_built_is_refused_with_its_line(
    fake: FakeE2b, tmp_path: Path, text: str, line: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(UsageError) as caught:
        await E2B_SANDBOX.create(request_for(tmp_path), E2bOptions())
    assert caught.value.message.startswith(f"{tmp_path}/Dockerfile:{line}: "), caught.value.message
    assert words in caught.value.message
    assert "template=" in (caught.value.mend or "")
    assert fake.state.calls == []
    assert capsys.readouterr().out == ""


@pytest.mark.anyio
async def test_a_build_that_fails_says_what_failed(fake: FakeE2b, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM a\nRUN echo because >&2; exit 3\n")
    with pytest.raises(SandboxError, match="exit code 3") as caught:
        await E2B_SANDBOX.create(request_for(tmp_path), E2bOptions())
    assert "because" in caught.value.message
    assert not caught.value.retryable
    assert fake.live() == []


@pytest.mark.anyio
async def test_a_template_by_name_is_used_as_it_is(fake: FakeE2b, environment: Path) -> None:
    sandbox = await E2B_SANDBOX.create(request_for(environment), E2bOptions(template="base"))
    assert fake.builds == []
    assert sandbox.python is None
    await sandbox.close()
    with pytest.raises(UsageError, match="no template 'mine'") as caught:
        await E2B_SANDBOX.create(request_for(environment), E2bOptions(template="mine"))
    assert "e2b template list" in (caught.value.mend or "")


@pytest.mark.parametrize("options", [E2bOptions(cpu=0), E2bOptions(memory_mb=1001), E2bOptions(memory_mb=64)])
def test_sizes_that_e2b_has_not_are_refused(options: E2bOptions) -> None:
    with pytest.raises(UsageError, match="even memory_mb"):
        choose_template(request_for(None), options)
    assert choose_template(request_for(None), attrs.evolve(options, template="mine")).name == "mine"
