from __future__ import annotations

import pytest

from envoi_trace_core.agents.credentials import first_variable, scrubbed
from envoi_trace_core.agents.versions import VersionRule, find_version
from envoi_trace_core.errors import UsageError


@pytest.mark.parametrize(
    ("rule", "version", "allowed"),
    [
        ("", "0.1.0", True),
        ("0.163.0", "0.163.0", True),
        ("0.163", "0.163.0", True),
        ("==0.163.0", "0.163.1", False),
        (">=0.160,<0.170", "0.169.0", True),
        (">=0.160,<0.170", "0.170.0", False),
        (">=0.9", "0.10.0", True),
        (">=1.0.0", "1.0.0-alpha.1", False),
        ("!=0.163.0", "0.163.0", False),
    ],
)
def test_rules(rule: str, version: str, allowed: bool) -> None:
    assert VersionRule.parse(rule).allows(version) is allowed


def test_a_rule_that_names_one_version() -> None:
    assert VersionRule.parse("0.163.0").exact == "0.163.0"
    assert VersionRule.parse(">=0.160").exact is None


@pytest.mark.parametrize("word", ["latest", "~=1.0", "1.0 && rm", ">="])
def test_what_is_no_rule(word: str) -> None:
    with pytest.raises(UsageError, match="is no version") as caught:
        VersionRule.parse(word)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("codex-cli 0.163.0", "0.163.0"),
        ("1.2.3-beta.4\n", "1.2.3-beta.4"),
        ("opencode v0.15.2", "0.15.2"),
        ("no", None),
    ],
)
def test_versions_are_found_in_what_a_program_says(said: str, version: str | None) -> None:
    assert find_version(said) == version


def test_the_first_variable_that_is_set_counts() -> None:
    assert first_variable(("A", "B", "C"), {"A": " ", "B": " x ", "C": "y"}) == ("B", "x")
    assert first_variable(("A",), {}) is None


def test_what_looks_like_a_credential_is_left_out() -> None:
    environ = {"PATH": "/bin", "OPENAI_API_KEY": "k", "gh_token": "t", "DB_PASSWORD": "p", "MY_KEY": "m"}
    assert scrubbed(environ, keep=("MY_KEY",)) == {"PATH": "/bin", "MY_KEY": "m"}
