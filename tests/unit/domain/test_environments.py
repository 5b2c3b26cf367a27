from __future__ import annotations

import pytest

from envoi_trace_core.domain.environments import load_environment
from envoi_trace_core.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "sorting"
    path.mkdir()
    (path / "main.py").write_text("raise SystemExit('never run here')")
    return path


def test_the_least_is_a_main(folder):
    environment = load_environment(folder)

    assert environment.name == "sorting"
    assert environment.main == folder / "main.py"
    assert (environment.setup_sh, environment.dockerfile, environment.hidden) == (None, None, ())


def test_all_that_it_may_have(folder):
    (folder / "setup.sh").touch()
    (folder / "Dockerfile").touch()
    (folder / "envoi-trace.toml").write_text('hidden = ["secret/*", "fast/7"]')

    environment = load_environment(folder)

    assert environment.setup_sh == folder / "setup.sh"
    assert environment.dockerfile == folder / "Dockerfile"
    assert environment.hidden == ("secret/*", "fast/7")


def test_its_hash_is_of_its_content(folder):
    first = load_environment(folder).content_hash
    (folder / "main.py").write_text("other")
    assert load_environment(folder).content_hash != first


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('hiden = ["a"]', "unknown key 'hiden' in .*Did you mean 'hidden'"),
        ('hidden = "a"', "no list of test paths"),
        ("hidden = [1]", "no list of test paths"),
        ('hidden = [""]', "no list of test paths"),
        ("x = 1\nhidden = = 2", r"no valid TOML: .*line 2"),
    ],
)
def test_wrong_settings(folder, text, expected):
    (folder / "envoi-trace.toml").write_text(text)
    with pytest.raises(UsageError, match=expected):
        load_environment(folder)


def test_what_is_missing(folder, tmp_path):
    with pytest.raises(UsageError, match="there is no environment folder"):
        load_environment(tmp_path / "gone")
    with pytest.raises(UsageError, match="is a file") as raised:
        load_environment(folder / "main.py")
    assert raised.value.mend == f"--env {folder}"
    (folder / "main.py").unlink()
    with pytest.raises(UsageError, match=r"has no main\.py"):
        load_environment(folder)
