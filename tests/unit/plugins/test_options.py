from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envoi_trace_core.errors import UsageError
from envoi_trace_core.options import (
    check_options_class,
    describe_options,
    parse_options,
    secret_options,
    with_absolute_paths,
)
from envoi_trace_core.specs import NoOptions, option


def positive(instance, attribute, value):
    if value <= 0:
        raise ValueError(f"{attribute.name} must be above 0, not {value}; key {instance.key}")


@attrs.frozen(kw_only=True)
class Options:
    effort: Literal["low", "high"] = option("low", "how hard it thinks")
    size_mb: int = option(5, "how much", unit="MB")
    share: float = option(0.5, "a share")
    fast: bool = option(False, "at once")
    limit: int | None = option(None, "at most")
    name: str | None = option(None, "a name")
    root: Path = option(Path("here"), "a folder")
    apt: tuple[str, ...] = option((), "packages")
    key: str = option("", "a key", secret=True)
    token: int = option(0, "a token", secret=True)
    count: int = attrs.field(default=1, validator=positive)


def parse(*words: str) -> Options:
    return parse_options(Options, words, "agent", "acme")


def refused(*words: str) -> str:
    with pytest.raises(UsageError) as raised:
        parse(*words)
    assert raised.value.mend == "envoi-trace plugins show acme"
    return raised.value.message


def test_no_words_give_the_defaults():
    assert parse() == Options()


def test_every_type_is_read_by_its_annotation():
    words = ("effort=high", "size_mb=7", "share=0.25", "fast=yes", "limit=3", "name=x=y", "root=/a b", "apt=git,curl")
    assert parse(*words) == Options(
        effort="high", size_mb=7, share=0.25, fast=True, limit=3, name="x=y", root=Path("/a b"), apt=("git", "curl")
    )


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE", "On"])
def test_true_has_several_words(word):
    assert parse(f"fast={word}").fast is True


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "False"])
def test_false_has_several_words(word):
    assert parse(f"fast={word}").fast is False


def test_dashes_repeats_and_none():
    assert parse("size-mb=2", "size-mb=3").size_mb == 3
    assert parse("apt=git, curl", "apt=jq").apt == ("git", "curl", "jq")
    assert parse("limit=none").limit is None
    assert parse("limit=").limit is None
    assert parse("name=none").name == "none"
    assert parse("name=").name is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("size_mb=3.9", "expects whole number (MB), not '3.9'"),
        ("size_mb=", "expects whole number"),
        ("share=much", "expects number, not 'much'"),
        ("share=nan", "expects number"),
        ("fast=maybe", "expects true or false, not 'maybe'"),
        ("effort=hihg", "expects one of low, high, not 'hihg'. Did you mean 'high'?"),
        ("root=", "expects path"),
        ("efort=low", "unknown option 'efort' of agent 'acme'. Did you mean 'effort'? It takes: effort, size_mb"),
        ("effort", "expected KEY=VALUE"),
        ("=high", "expected KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_named(word, expected):
    assert expected in refused(word)


def test_a_plugin_without_options_says_so():
    with pytest.raises(UsageError, match=r"unknown option 'x' of agent 'acme'\. It takes no options"):
        parse_options(NoOptions, ["x=1"], "agent", "acme")


def test_a_secret_is_never_repeated():
    assert "s3cr3t" not in refused("token=s3cr3t")
    assert "s3cr3t" not in refused("key=s3cr3t", "count=0")
    assert "s3cr3t" not in refused("=s3cr3t")
    assert secret_options(Options) == {"key", "token"}


def test_a_validator_of_the_plugin_is_a_wrong_use():
    assert "count must be above 0" in refused("count=0")


def test_describe_tells_what_a_user_needs():
    infos = {info.name: info for info in describe_options(Options)}

    assert infos["effort"].choices == ("low", "high")
    assert infos["effort"].type == "low|high"
    assert infos["size_mb"].unit == "MB"
    assert infos["size_mb"].help == "how much"
    assert infos["apt"].type == "list of text"
    assert infos["key"].secret


def test_a_class_is_checked_before_it_is_taken():
    @attrs.frozen
    class Odd:
        a: dict[str, str] = attrs.field(factory=dict)

    assert check_options_class(Options) is None
    assert "no KEY=VALUE" in check_options_class(Odd)
    assert "not an attrs class" in check_options_class(Options())


@given(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
def test_what_can_be_written_is_read_back(text, number, flag, share):
    options = parse(f"key={text}", f"size_mb={number}", f"fast={flag}", f"share={share!r}")

    assert (options.key, options.size_mb, options.fast, options.share) == (text, number, flag, share)


def test_paths_of_this_machine_become_absolute_and_nothing_else_does(tmp_path, monkeypatch):
    @attrs.frozen(kw_only=True)
    class Options:
        script: Path | None = option(None, "a path")
        read_more: tuple[Path, ...] = option((), "paths")
        root: str = option("", "a path as text", path=True)
        inside: str = option("", "a path in the sandbox")

    monkeypatch.chdir(tmp_path)
    words = ("script=a.jsonl", "read-more=b, /c", "root=d", "inside=e", "script=none", "root=", "unknown=f", "odd")
    assert with_absolute_paths(Options, words) == (
        f"script={tmp_path}/a.jsonl",
        f"read-more={tmp_path}/b,/c",
        f"root={tmp_path}/d",
        "inside=e",
        "script=none",
        "root=",
        "unknown=f",
        "odd",
    )
