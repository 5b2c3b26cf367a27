from __future__ import annotations

import pytest

from envoi_trace_core import plugins as plugins_module
from envoi_trace_core.errors import PluginError, UsageError
from envoi_trace_core.plugins import Plugins

ALL_BROKEN = (
    "broken_import", "exits", "unknown_hook", "late_raise", "name_clash", "bad_descriptors", "no_hook", "bad_signature",
)  # fmt: skip


def problems_of(plugins: Plugins, plugin: str) -> list[tuple[str, str]]:
    return [(problem.phase, problem.error) for problem in plugins.problems if problem.plugin == plugin]


def test_a_third_party_plugin_is_found_with_all_five_kinds(installed):
    plugins = installed("good")

    assert plugins.agent("acme").event_format == "acme-events"
    assert plugins.sandbox("acme-cloud").summary == "ACME's cloud"
    assert plugins.storage("acme-store").name == "acme-store"
    assert plugins.part_parser("acme-events").name == "acme-events"
    assert plugins.launcher("acme").summary == "ACME's queue"
    assert {(p.distribution, p.version) for p in plugins.all() if p.plugin == "acme"} == {("acme-trace", "1.2")}
    assert problems_of(plugins, "acme") == []


def test_the_built_ins_come_through_the_same_hooks(installed):
    plugins = installed()

    assert plugins.agent("script").runs_model is False
    assert plugins.part_parser("script-events")
    assert plugins.sandbox("local")
    assert plugins.launcher("local")


def test_every_broken_plugin_together_leaves_the_others_whole(installed):
    plugins = installed("good", *ALL_BROKEN)

    assert plugins.agent("acme")
    assert plugins.agent("script").summary != "An impostor"
    assert plugins.agent("honest")
    assert plugins.storage("novel")
    assert plugins.storage("sound")
    broken = {"broken", "exiting", "novel", "late", "clashing", "odd", "empty", "arguing"}
    assert {p.plugin for p in plugins.problems} >= broken


@pytest.mark.parametrize(
    ("fake", "plugin", "phase", "error"),
    [
        ("broken_import", "broken", "import", "No module named 'a_library_that_is_not_there'"),
        ("exits", "exiting", "import", "SystemExit: goodbye"),
        ("unknown_hook", "novel", "unknown hook", "envoi_trace_sandboxs Did you mean 'envoi_trace_sandboxes'?"),
        ("late_raise", "late", "hook", "envoi_trace_storages: RuntimeError: too late"),
        ("name_clash", "clashing", "name clash", "agent 'script' is taken by plugin 'builtin' (envoi-trace)"),
        ("no_hook", "empty", "registration", "@hookimpl missing"),
        ("bad_signature", "arguing", "registration", "settings"),
    ],
)
def test_a_problem_names_plugin_distribution_and_phase(installed, fake, plugin, phase, error):
    plugins = installed(fake)

    [problem] = [problem for problem in plugins.problems if problem.plugin == plugin]
    assert problem.phase == phase
    assert error in problem.error
    assert "\n" not in problem.error
    assert problem.distribution.endswith("-trace")
    assert problem.version is not None


def test_each_wrong_descriptor_is_a_problem_of_its_own(installed):
    errors = problems_of(installed("bad_descriptors"), "odd")

    text = "\n".join(error for _, error in errors)
    assert "gave a str, not a StorageSpec" in text
    assert "option 'bucket' has no default" in text
    assert "'size' has a type that no KEY=VALUE can give" in text
    assert "whose name is 'a name'" in text
    assert "not an attrs class" in text
    assert "envoi_trace_agents: TypeError" in text
    assert len(errors) == 6


@pytest.mark.parametrize(
    ("fake", "kind", "name", "why"),
    [
        ("broken_import", "agent", "broken", "No module named"),
        ("late_raise", "storage", "late-store", "too late"),
        ("bad_descriptors", "storage", "demanding", "has no default"),
    ],
)
def test_only_the_name_that_failed_is_fatal(installed, fake, kind, name, why):
    plugins = installed("good", fake)

    assert plugins.agent("acme")
    with pytest.raises(PluginError, match=why) as raised:
        getattr(plugins, kind)(name)
    assert raised.value.mend.startswith("envoi-trace plugins show ")


def test_an_unknown_name_lists_what_there_is_and_guesses(installed):
    with pytest.raises(UsageError, match=r"unknown sandbox 'locl'\. Did you mean 'local'\? installed: local") as raised:
        installed().sandbox("locl")
    assert "envoi-trace plugins" in raised.value.mend


def test_one_of_ours_that_is_not_installed_says_how_to_install_it():
    with pytest.raises(UsageError, match="sandbox 'modal' is not installed") as raised:
        Plugins().sandbox("modal")
    assert raised.value.mend == 'pip install "envoi-trace[modal]"'
    with pytest.raises(UsageError, match=r"unknown sandbox 'modl'\. Did you mean 'modal'"):
        Plugins().sandbox("modl")


def test_an_unknown_name_points_at_broken_plugins_that_may_have_it(installed):
    with pytest.raises(UsageError) as raised:
        installed("broken_import").agent("something-else")
    assert "broken" in raised.value.mend


def test_a_sandbox_for_an_environment_is_caught(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugins = installed()
    with pytest.raises(UsageError, match="is a sandbox") as raised:
        plugins.check_environment_argument("modal")
    assert raised.value.mend.startswith("--sandbox modal")

    plugins.check_environment_argument("elsewhere")
    (tmp_path / "local").mkdir()
    plugins.check_environment_argument("local")


def test_a_plugin_can_be_switched_off(installed, monkeypatch):
    monkeypatch.setenv("ENVOI_TRACE_DISABLE_PLUGINS", "other, broken")

    assert problems_of(installed("broken_import"), "broken") == []


def test_a_problem_is_warned_about_once_on_one_line(installed, monkeypatch):
    found = installed("broken_import")
    monkeypatch.setattr(plugins_module, "_discover_once", lambda: found)
    monkeypatch.setattr(plugins_module, "_warned", set())
    lines: list[str] = []

    Plugins.load(warn=lines.append)
    Plugins.load(warn=lines.append)

    [line] = [line for line in lines if "'broken'" in line]
    assert "broken-trace" in line
    assert "import" in line
    assert "\n" not in line


# -- the command -----------------------------------------------------------------------------------


def test_plugins_lists_the_sound_and_the_broken(cli):
    import json

    done = cli("plugins", "--json", fakes=("good", *ALL_BROKEN))

    assert done.returncode == 0
    rows = json.loads(done.stdout)
    by_name = {row["name"]: row for row in rows if row["plugin"] in ("acme", "broken", "exiting")}
    assert by_name["acme-cloud"]["status"] == "ok"
    assert by_name["acme-cloud"]["distribution"] == "acme-trace"
    assert by_name["acme-cloud"]["version"] == "1.2"
    assert by_name["broken"]["status"] == "broken"
    assert by_name["broken"]["phase"] == "import"
    assert "Traceback" not in done.stderr


def test_plugins_as_a_table_shows_no_control_characters_of_an_error(cli):
    done = cli("plugins", fakes=("good", "exits"))

    assert done.returncode == 0
    assert "acme-trace" in done.stdout
    assert "\x1b" not in done.stdout
    [line] = [line for line in done.stdout.splitlines() if "exiting-trace" in line]
    assert "broken" in line


def test_show_prints_options_with_default_unit_and_help(cli):
    done = cli("plugins", "show", "acme-cloud", fakes=("good",))

    assert done.returncode == 0
    assert "--sandbox-opt" in done.stdout
    for words in (
        ("region", "eu", "eu|us", "where it stands"),
        ("lifetime_s", "60.0 s", "how long"),
        ("key", "secret"),
    ):
        [line] = [line for line in done.stdout.splitlines() if line.startswith(words[0])]
        assert all(word in line for word in words)


def test_show_of_a_broken_one_gives_its_error(cli):
    done = cli("plugins", "show", "broken", fakes=("broken_import",))

    assert done.returncode == 0
    assert "a_library_that_is_not_there" in done.stdout


def test_show_of_an_unknown_one(cli):
    done = cli("plugins", "show", "scrip")

    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: no plugin 'scrip' is installed. Did you mean 'script'?",
        "  mend: envoi-trace plugins",
    ]


def test_a_broken_plugin_warns_on_one_line_and_stops_nothing(cli):
    done = cli("--task", "t", "--env", "modal", fakes=("broken_import",))

    [warning] = [line for line in done.stderr.splitlines() if "'broken'" in line]
    assert warning.startswith("warning: plugin 'broken' (broken-trace) failed at import: ")
    assert done.returncode == 2
    assert "is a sandbox" in done.stderr
