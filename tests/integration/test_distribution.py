"""The wheel alone, as users install it; a plugin of somebody else beside it; the README's two commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MERGE_SORT = ["--task", str(EXAMPLES / "tasks/merge_sort"), "--env", str(EXAMPLES / "environments/merge_sort")]
README_COMMAND = re.compile(r"^pip install uv && (?P<rest>uv run .+)$", re.MULTILINE)


def uv(*words: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    found = shutil.which("uv")
    command = [found] if found else [sys.executable, "-m", "uv"]
    environ = {**os.environ, **(env or {})}
    environ.pop("VIRTUAL_ENV", None)
    return subprocess.run(
        [*command, *words], cwd=cwd, env=environ, capture_output=True, text=True, timeout=600, check=False
    )


def python(version: str) -> str:
    """An interpreter of that version that really runs (pyenv leaves shims of others on the path)."""
    places = [uv("python", "find", "--no-project", version, cwd=Path("/")).stdout.strip()]
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    places += [str(path) for path in sorted(versions.glob(f"{version}*/bin/python{version}"))]
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for place in filter(None, places):
        done = subprocess.run([place, "-I", "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return place
    pytest.skip(f"there is no Python {version} here")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if uv("--version").returncode != 0:
        pytest.skip("needs uv")
    folder = tmp_path_factory.mktemp("dist")
    built = uv("build", "--wheel", "--out-dir", str(folder))
    assert built.returncode == 0, built.stderr
    return next(folder.glob("envoi_trace-*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    tracked = subprocess.run(
        ["git", "ls-files", "envoi_trace_core"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert {"envoi_trace_core/py.typed", "envoi_trace_core/repo/checkpoint.sh"} <= names
    assert {name for name in tracked if (ROOT / name).exists()} <= names
    assert {name.split("/")[0].rpartition(".")[2] for name in names} == {"envoi_trace_core", "dist-info"}
    assert not any("__pycache__" in name for name in names)


def test_the_wheel_needs_nothing_but_releases(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())

    requires = metadata.get_all("Requires-Dist")
    assert requires
    assert not [line for line in requires if "@" in line or "://" in line]
    assert all(word not in line for line in requires for word in ("pytest", "mypy", "ruff"))
    assert "3.12" in str(metadata["Requires-Python"])


def install(place: Path, version: str, *packages: str) -> Path:
    """A virtual environment of its own, filled by its own pip."""
    made = subprocess.run([python(version), "-m", "venv", str(place)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    pip(place, *packages)
    return place / "bin" / "envoi-trace"


def pip(place: Path, *packages: str) -> None:
    words = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", *packages]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def broken_plugin(folder: Path) -> Path:
    (folder / "broken").mkdir()
    (folder / "broken" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling>=1.27"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "broken-plugin"\nversion = "2.0"\n'
        '[project.entry-points.envoi_trace]\nbroken = "broken_plugin"\n'
    )
    (folder / "broken" / "broken_plugin.py").write_text("import a_library_that_was_removed\n")
    return folder / "broken"


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_installed_alone_it_runs_and_finds_plugins_of_others(wheel, tmp_path, version):
    place = tmp_path / "venv"
    command = install(place, version, str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environ |= {"HOME": str(tmp_path / "home"), "ENVOI_TRACE_STATE_DIR": str(tmp_path / "state")}
    (tmp_path / "home").mkdir()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(command), *words], cwd=elsewhere, env=environ, capture_output=True, text=True, timeout=400, check=False
        )

    done = run("--agent", "script", "--sandbox", "local", "--storage", "local", "--json", *MERGE_SORT)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["reason"] == "solved"
    assert Path(summary["trace_uri"]).is_relative_to(elsewhere)
    assert Path(summary["trace_uri"]).is_file()
    shown = run("show", summary["trajectory_id"], "--json")
    assert shown.returncode == 0, shown.stderr

    example = shutil.copytree(EXAMPLES / "plugins/envoi_trace_home", tmp_path / "envoi_trace_home")
    pip(place, str(example), str(broken_plugin(tmp_path)))
    listed = run("plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    assert '"home"' in listed.stdout
    assert "envoi-trace-home" in listed.stdout
    assert "a_library_that_was_removed" in listed.stdout
    assert "Traceback" not in listed.stderr
    one_turn = ["--agent", "script", "--sandbox", "local", "--max-parts", "1", "--json", *MERGE_SORT]
    kept = run(*one_turn, "--storage", "home", "--storage-opt", "folder=runs")
    assert kept.returncode == 0, kept.stderr
    assert Path(json.loads(kept.stdout)["trace_uri"]).is_relative_to(tmp_path / "home" / "runs")


def readme_commands() -> list[str]:
    return [match["rest"] for match in README_COMMAND.finditer((ROOT / "README.md").read_text())]


def test_the_readme_has_two_commands_for_everything():
    commands = readme_commands()

    assert len(commands) == 2
    assert commands[0].startswith("uv run envoi-trace --agent script --sandbox local ")
    assert re.fullmatch(r"uv run --all-packages pytest( -n \w+)?", commands[1])


def test_the_readmes_run_command_works_in_a_fresh_clone(tmp_path):
    clone = tmp_path / "clone"
    done = subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is no git checkout")
    command = readme_commands()[0]
    if shutil.which("uv") is None:
        pytest.skip("needs uv")
    environ = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}

    ran = subprocess.run(
        ["sh", "-c", command], cwd=clone, env=environ, capture_output=True, text=True, timeout=800, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert "TRAJECTORY_ID: " in ran.stdout
    assert "solved: " in ran.stdout
