from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys

import attrs
import pytest

from envoi_trace_core.cli.main import app, default_map
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.config import Settings

HEAVY = (
    "pyarrow", "matplotlib", "cattrs", "mcp", "envoi", "modal", "e2b", "boto3", "botocore", "duckdb",
    "anyio", "httpx", "numpy", "dotenv", "platformdirs",
)  # fmt: skip


@pytest.mark.parametrize("words", [["--help"], [], ["plugins"], ["plugins", "show", "script"], ["list", "--help"]])
def test_light_commands_import_nothing_heavy(folder, words):
    code = (
        "import sys\n"
        "from envoi_trace_core.cli.main import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "except SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []


def test_without_arguments_it_helps(cli):
    done = cli()
    assert done.returncode == 0
    for word in ("--task", "--max-parts", "plugins", "show"):
        assert word in done.stdout


def test_help_names_every_option(cli):
    text = cli("--help", COLUMNS="200").stdout
    for field in attrs.fields(RunOptions):
        if field.name != "given":
            assert "--" + field.name.replace("_", "-") in text


def test_every_command_says_what_it_does():
    assert all((command.callback.__doc__ or "").strip() for command in app.registered_commands)


def test_version(cli):
    assert cli("--version").stdout.startswith("envoi-trace ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--agnt", "x"], "no such option: --agnt"),
        (["--max-parts", "many"], "invalid value for '--max-parts'"),
        (["--max-parts", "0"], "invalid value for '--max-parts'"),
        (["--fail-under", "1.5"], "invalid value for '--fail-under'"),
        (["--eval-sandbox", "none"], "invalid value for '--eval-sandbox'"),
        (["--task"], "'--task' requires an argument"),
        (["lst"], "no such command 'lst'. Did you mean 'list'?"),
        (["--storage", "local", "list"], "--storage stands before 'list'"),
        (["show"], "missing argument 'ID'"),
        (["show", "x", "--prat", "1"], "no such option: --prat"),
        (["list", "--since", "yesterday"], "--since 'yesterday' is no time"),
        (["list", "--reason", "sovled"], "unknown reason 'sovled'. Did you mean 'solved'?"),
        (["list", "--storage", "locl"], "unknown storage 'locl'. Did you mean 'local'?"),
        (["show", "some/where/trace.parquet"], "there is no trace some/where/trace.parquet"),
        (["graph", "x", "--part", "1"], "--checkout-dest is missing"),
        (["graph", "x", "--checkout-dest", "d"], "--part is missing"),
        (["plugins", "shw"], "`plugins` takes nothing, or `show NAME`"),
        (["plugins", "show"], "`plugins` takes nothing, or `show NAME`"),
    ],
)
def test_wrong_use_is_two_lines_and_status_2(cli, folder, words, expected):
    done = cli(*words)

    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert len(lines) <= 2
    assert all(line.startswith("  mend: ") for line in lines[1:])
    assert done.stdout == ""
    assert list(folder.iterdir()) == []


def test_graph_refuses_a_folder_that_is_not_empty_before_it_looks_for_anything(cli, folder):
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    done = cli("graph", "x", "--part", "1", "--checkout-dest", "full")
    assert done.returncode == 2
    assert "--checkout-dest full is not empty" in done.stderr


def test_debug_anywhere_gives_the_traceback(folder):
    for words in (["--debug", "show", "gone/x"], ["show", "gone/x", "--debug"]):
        argv = [sys.executable, "-m", "envoi_trace_core.cli.main", *words]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert "Traceback" in done.stderr
        assert "UsageError" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])  # found by the last flush, or by the first line
def test_the_reader_of_the_output_may_leave(folder, unbuffered):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "envoi_trace_core.cli.main", "plugins"],
            cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.parametrize("where", ["m.load_env_file", "m.plugins_command.Plugins.discover"])
def test_an_interrupt_is_130_without_a_traceback(folder, where):
    os.mkfifo(folder / "env")
    code = (
        "import sys, os\n"
        "from envoi_trace_core.cli import main as m\n"
        "def wait(*_):\n"
        "    print('waits', flush=True)\n"
        "    open('env').read()\n"
        f"{where} = wait\n"
        "m.main(['plugins'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "interrupted\n"


def test_batch_is_a_setting_of_a_run_and_a_command():
    settings = Settings(values={"batch": "nightly", "storage": "local", "max_parts": "3"})
    assert default_map(settings)["batch"] == "nightly"
    assert default_map(settings, "list")["list"] == {"storage": "local"}
    assert default_map(settings, "batch")["batch"] == {"storage": "local"}
