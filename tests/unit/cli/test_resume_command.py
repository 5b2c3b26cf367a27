"""Which options of `resume` replace what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from envoi_trace_core.cli.resume_command import overridden
from envoi_trace_core.cli.run_config import merged
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.run.config import RunConfig

STORED = RunConfig(
    trajectory_id="t",
    task="/tasks/a",
    environment="/environments/a",
    agent="script",
    agent_opts=("script=/a", "size=1"),
    sandbox="local",
    sandbox_opts=("isolation=bwrap",),
    storage="local",
    max_parts=7,
    timeout_s=70,
    labels={"a": "1"},
)


def test_only_what_was_given_overrides():
    assert overridden(STORED, RunOptions(max_parts=1, timeout=1, sandbox="modal")) == STORED


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"max_parts": 9}, "max_parts", 9),
        ({"timeout": 9.0}, "timeout_s", 9.0),
        ({"agent_opt": ("size=2",)}, "agent_opts", ("script=/a", "size=2")),
        ({"agent": "codex"}, "agent_opts", ()),
        ({"sandbox": "modal"}, "sandbox_opts", ()),
        ({"label": ("b=2",)}, "labels", {"a": "1", "b": "2"}),
        ({"task": "b"}, "task", str(Path.cwd() / "b")),
    ],
)
def test_an_option_overrides(options, name, value):
    assert getattr(overridden(STORED, RunOptions(**options, given=frozenset(options))), name) == value


def test_a_key_that_is_given_again_replaces_all_it_had():
    assert merged(("a-b=1", "c=2", "a_b=3"), ("a_b=4", "a-b=5")) == ("c=2", "a_b=4", "a-b=5")
