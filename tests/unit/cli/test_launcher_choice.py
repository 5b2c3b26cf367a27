from __future__ import annotations

import attrs
import pytest

from envoi_trace_core.builtin.local_launcher import LOCAL_LAUNCHER
from envoi_trace_core.cli.launcher_choice import choose_launcher
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.errors import UsageError
from envoi_trace_core.plugins import InstalledPlugin, Plugins
from envoi_trace_core.specs import LauncherSpec, option


@attrs.frozen(kw_only=True)
class AcmeOptions:
    preemptible: bool = option(False, "cheaper")
    queue: str = option("", "which queue")


@attrs.frozen
class Acme:
    options: AcmeOptions


def plugins_with(*names: str) -> Plugins:
    specs = [LOCAL_LAUNCHER, *(LauncherSpec(name=name, summary="", options=AcmeOptions, create=Acme) for name in names)]
    return Plugins(
        installed=tuple(
            InstalledPlugin(kind="launcher", spec=spec, plugin=spec.name, distribution="d", version=None)
            for spec in specs
        )
    )


def test_local_unless_it_must_run_elsewhere():
    assert choose_launcher(plugins_with("acme"), RunOptions()).options == LOCAL_LAUNCHER.options()


@pytest.mark.parametrize("options", [RunOptions(detach=True), RunOptions(launcher="acme")])
def test_the_only_remote_launcher(options: RunOptions):
    assert choose_launcher(plugins_with("acme"), options).options == AcmeOptions()


def test_preemptible_is_an_option_of_the_launcher():
    options = RunOptions(preemptible=True, launcher_opt=("queue=q",))
    assert choose_launcher(plugins_with("acme"), options).options == AcmeOptions(preemptible=True, queue="q")


def test_of_several_one_is_named():
    plugins = plugins_with("acme", "other")
    with pytest.raises(UsageError, match=r"several launchers.*acme, other"):
        choose_launcher(plugins, RunOptions(detach=True))
    assert choose_launcher(plugins, RunOptions(detach=True, launcher="other")).options == AcmeOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RunOptions(preemptible=True), "--preemptible is of an orchestrator that runs elsewhere"),
        (RunOptions(launcher="nope"), "unknown launcher 'nope'"),
        (RunOptions(launcher_opt=("queue=q",)), "queue"),
    ],
)
def test_what_can_not_be(options: RunOptions, message: str):
    with pytest.raises(UsageError, match=message):
        choose_launcher(plugins_with(), options)
