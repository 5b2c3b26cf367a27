from __future__ import annotations

import pytest

from envoi_trace_core.cli.run_options import RunOptions


def test_the_defaults_are_those_of_the_specification(options_of):
    options = options_of("--task", "t")

    assert options == RunOptions(task="t", given=frozenset({"task"}))
    assert (options.agent, options.sandbox, options.storage) == ("codex", "modal", None)
    assert (options.max_parts, options.timeout, options.idle_timeout) == (1000, 14400, 1800)
    assert (options.auto_resume, options.max_restarts, options.restart_delay) == (True, 20, 10)


def test_every_option_arrives(options_of):
    words = """
        --task t --env e --agent a --model m --param a=1 --param b=2 --lang de --label k=v --trajectory-id i
        --max-parts 1 --max-turns 2 --max-tokens 3 --max-cost-usd 0.5 --timeout 4 --idle-timeout 5 --turn-timeout 6
        --eval-sandbox shared --eval-concurrency 7 --eval-grace 8 --hidden x/* --hidden y --fail-under 0.9
        --sandbox s --storage st --agent-opt a=1 --sandbox-opt b=2 --storage-opt c=3
        --launcher l --launcher-opt d=4 --detach --preemptible
        --no-auto-resume --max-restarts 9 --restart-delay 10.5 --json --quiet
    """
    options = options_of(*words.split())
    assert options == RunOptions(
        task="t", env="e", agent="a", model="m", param=("a=1", "b=2"), lang="de", label=("k=v",), trajectory_id="i",
        max_parts=1, max_turns=2, max_tokens=3, max_cost_usd=0.5, timeout=4, idle_timeout=5, turn_timeout=6,
        eval_sandbox="shared", eval_concurrency=7, eval_grace=8, hidden=("x/*", "y"), fail_under=0.9, sandbox="s",
        storage="st", agent_opt=("a=1",), sandbox_opt=("b=2",), storage_opt=("c=3",),
        launcher="l", launcher_opt=("d=4",), detach=True, preemptible=True,
        auto_resume=False, max_restarts=9, restart_delay=10.5, json=True, quiet=True, given=options.given,
    )  # fmt: skip
    assert options.given >= {"task", "hidden", "auto_resume"}
    assert "debug" not in options.given


def test_each_layer_goes_over_the_weaker_ones(options_of, folder, monkeypatch):
    (folder / "pyproject.toml").write_text('[tool.envoi-trace]\nagent = "file"\nmodel = "file"\nlang = "file"\n')
    assert options_of("--task", "t").agent == "file"

    (folder / ".env").write_text("ENVOI_TRACE_AGENT=dotenv\nENVOI_TRACE_MODEL=dotenv\nSOME_KEY=from-dotenv\n")
    monkeypatch.setenv("SOME_KEY", "set")
    monkeypatch.setenv("ENVOI_TRACE_AGENT", "variable")
    for name in ("ENVOI_TRACE_MODEL",):  # what .env sets is taken back after the test
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)

    options = options_of("--task", "t", "--max-parts", "3")
    assert (options.agent, options.model, options.lang) == ("variable", "dotenv", "file")
    assert options_of("--task", "t", "--agent", "word").agent == "word"
    assert options.given == {"task", "max_parts"}


def test_the_own_file_comes_before_the_projects(options_of, folder):
    (folder / "pyproject.toml").write_text('[tool.envoi-trace]\nagent = "project"\nlang = "de"\n')
    (folder / "envoi-trace.toml").write_text('agent = "own"\n')

    options = options_of("--task", "t")
    assert (options.agent, options.lang) == ("own", "en")


def test_every_shape_of_value(options_of, folder):
    (folder / "envoi-trace.toml").write_text(
        'task = "t"\nmax-parts = 7\nmax_cost_usd = 1.5\nauto-resume = false\nhidden = ["a/*", "b"]\nlabel = "k=v"\n'
        "[agent-opt]\neffort = 'high'\nfast = true\nfolders = ['x', 'y']\n"
    )
    options = options_of()
    assert options.task == "t"
    assert (options.max_parts, options.max_cost_usd, options.auto_resume) == (7, 1.5, False)
    assert options.hidden == ("a/*", "b")
    assert options.label == ("k=v",)
    assert options.agent_opt == ("effort=high", "fast=true", "folders=x,y")


def test_variables_of_every_shape(options_of, monkeypatch):
    monkeypatch.setenv("ENVOI_TRACE_MAX_PARTS", "7")
    monkeypatch.setenv("ENVOI_TRACE_AUTO_RESUME", "off")
    monkeypatch.setenv("ENVOI_TRACE_AGENT_OPT", "a=1 'b=two words'")
    monkeypatch.setenv("ENVOI_TRACE_MODEL", "")

    options = options_of("--task", "t")
    assert (options.max_parts, options.auto_resume, options.model) == (7, False, None)
    assert options.agent_opt == ("a=1", "b=two words")


def test_options_of_the_files_agent_are_not_for_another(options_of, folder):
    (folder / "envoi-trace.toml").write_text('agent = "codex"\nagent-opt = ["effort=high"]\n')

    assert options_of("--task", "t").agent_opt == ("effort=high",)
    assert options_of("--task", "t", "--agent", "codex").agent_opt == ("effort=high",)
    assert options_of("--task", "t", "--agent", "script").agent_opt == ()
    assert options_of("--task", "t", "--agent", "script", "--agent-opt", "a=1").agent_opt == ("a=1",)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("envoi-trace.toml", "max-part = 3", "unknown key 'max-part' in envoi-trace.toml. Did you mean 'max-parts'?"),
        ("pyproject.toml", "[tool.envoi-trace]\nagnt = 'x'", "unknown key 'agnt' in [tool.envoi-trace] of pyproject"),
        ("pyproject.toml", "[tool.envoi-trace]\nagent = = 1", "no valid TOML: Invalid value (at line 2"),
        ("envoi-trace.toml", "detach = 1", "'detach' in envoi-trace.toml expects true or false, not 1"),
        ("envoi-trace.toml", "hidden = [1]", "expects a list of texts"),
        ("envoi-trace.toml", "agent = ['a']", "expects one value"),
        ("envoi-trace.toml", "max-parts = 'x'", "(set by 'max-parts' in envoi-trace.toml)"),
        (".env", "ENVOI_TRACE_MAX_PARTS=x", "(set by ENVOI_TRACE_MAX_PARTS)"),
        (".env", "ENVOI_TRACE_DETACH=maybe", "ENVOI_TRACE_DETACH expects true or false, not 'maybe'"),
        (".env", "ENVOI_TRACE_HIDDEN='a \"b'", "ENVOI_TRACE_HIDDEN can't be split"),
    ],
)
def test_a_wrong_setting_says_where_it_stands(cli, folder, file, text, expected):
    (folder / file).write_text(text)

    done = cli("--task", "t", "--env", "e")

    assert done.returncode == 2
    [first, second] = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert expected in first
    assert second.startswith("  mend: ")


def test_anothers_broken_project_file_is_no_business_of_ours(options_of, folder):
    (folder / "pyproject.toml").write_text("[tool.other\n")
    assert options_of("--task", "t").task == "t"


def test_a_broken_file_does_not_take_the_help_away(cli, folder):
    (folder / "envoi-trace.toml").write_text("= =")
    assert cli("--help").returncode == 0
    assert cli("list", "--help").returncode == 0


def test_shared_settings_count_for_subcommands_and_others_do_not(cli, folder):
    (folder / "envoi-trace.toml").write_text('storage = "nowhere"\nagent = "codex"\n')
    done = cli("list")
    assert done.returncode == 2
    assert "unknown storage 'nowhere'" in done.stderr
