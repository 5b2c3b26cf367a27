"""A script is refused before anything runs, by file and line."""

from __future__ import annotations

import pytest

from envoi_trace_core.builtin.script.actions import load_script, script_path
from envoi_trace_core.errors import UsageError


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not a line of JSON"),
        ("[1]", "an action is a JSON object"),
        ("{}", "unknown action ''"),
        ('{"rnu": "ls"}', "unknown action 'rnu'. Did you mean 'run'?"),
        ('{"run": "ls", "timeout": 3}', "unknown field of 'run' 'timeout'. Did you mean 'timeout_s'?"),
        ('{"run": "ls", "text": "x"}', "one action a line, not 'run' and 'text'"),
        ('{"run": "ls", "run": "ls"}', "stands twice"),
        ('{"run": 3}', "'run' must be a shell command"),
        ('{"run": "ls", "timeout_s": true}', "'timeout_s' must be a number of seconds"),
        ('{"run": "ls", "timeout_s": 0}', "'timeout_s' must be a number of seconds"),
        ('{"sleep": NaN}', "'sleep' must be a number of seconds"),
        ('{"sleep": -1}', "'sleep' must be a number of seconds"),
        ('{"write": "x"}', "'write' needs 'content'"),
        ('{"write": "../x", "content": ""}', "within it"),
        ('{"write": "/x", "content": ""}', "within it"),
        ('{"write": "x/", "content": ""}', "within it"),
        ('{"write": "x", "content": "\\ud800"}', "not a line of JSON"),
        ('{"turn": false}', "'turn' must be true"),
        ('{"fail": "x", "once": 1}', "'once' must be true or false"),
        ('{"usage": {"inputs": 3}}', "without 'inputs'"),
        ('{"usage": {"input": 3.9}}', "'input' is a count of tokens"),
        ('{"usage": {"cost_usd": "3"}}', "US dollars"),
        ('{"run_tests": null}', "'run_tests' must be a text"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    path = tmp_path / "script.jsonl"
    path.write_text('{"text": "x"}\n\n' + line + "\n")
    with pytest.raises(UsageError) as error:
        load_script(path)
    assert error.value.message.startswith(f"{path}:3: ")
    assert said in error.value.message
    assert error.value.mend


def test_usage_needs_a_part_before_it(tmp_path):
    path = tmp_path / "script.jsonl"
    path.write_text('{"sleep": 1}\n{"usage": {"input": 1}}\n')
    with pytest.raises(UsageError, match=":2: 'usage' belongs to the part before it"):
        load_script(path)


def test_an_empty_script_and_a_missing_one(tmp_path):
    (tmp_path / "script.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="holds no action"):
        load_script(script_path(tmp_path, None))
    with pytest.raises(UsageError, match="there is no script"):
        script_path(tmp_path, tmp_path / "other.jsonl")
    (tmp_path / "script.jsonl").unlink()
    with pytest.raises(UsageError, match=r"nothing to play: there is no script\.jsonl"):
        script_path(tmp_path, None)


@pytest.mark.anyio
async def test_a_wrong_script_starts_nothing(stage):
    stage.write_script({"txt": "x"})
    with pytest.raises(UsageError, match="Did you mean 'text'"):
        async with stage.session():
            pass
    found = await stage.sandbox.run(["ls", "-A", stage.sandbox.support_dir], timeout_s=10)
    assert b"script-agent" not in found.stdout
