from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from envoi_trace_core.domain.tasks import Task, load_task
from envoi_trace_core.errors import UsageError


@pytest.fixture
def task(tmp_path):
    """Make a task folder of these files."""
    folder = tmp_path / "sorting"

    def make(**files: str) -> Path:
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)
        return folder

    return make


def load(folder: Path, lang: str = "en", **params: str) -> Task:
    return load_task(folder, lang=lang, params=params)


def refused(folder: Path, lang: str = "en", **params: str) -> UsageError:
    with pytest.raises(UsageError) as raised:
        load(folder, lang, **params)
    return raised.value


def test_a_prompt_file_alone(task):
    loaded = load(task(en_md="Sort. int main() { return 0; }"))

    assert loaded.prompt == "Sort. int main() { return 0; }"
    assert loaded.name == "sorting"
    assert loaded.params == {}
    assert len(loaded.content_hash) == 64


def test_the_languages_own_file_comes_first(task):
    folder = task(de_md="Sortiere.", prompt_md="Sort.")

    assert load(folder, "de").prompt == "Sortiere."
    assert load(folder, "en").prompt == "Sort."


def test_params_of_the_user_fill_placeholders(task):
    loaded = load(task(en_md="Sort {n}."), n="7")

    assert loaded.prompt == "Sort 7."
    assert loaded.params == {"n": "7"}


@pytest.mark.parametrize("word", ["def", "async def"])
def test_params_py_gives_parameters_and_the_user_overrides_them_in_their_type(task, word):
    folder = task(
        en_md="Sort {n} {what}.", params_py=f'{word} params():\n    return {{"n": 3, "what": "words", "on": True}}\n'
    )

    assert load(folder).prompt == "Sort 3 words."
    changed = load(folder, n="7", on="no")
    assert changed.prompt == "Sort 7 words."
    assert changed.params == {"n": 7, "what": "words", "on": False}
    assert "expects a whole number, not 'x'" in refused(folder, n="x").message


@pytest.mark.parametrize("word", ["def", "async def"])
def test_task_py_generates_prompt_and_parameters(task, word):
    folder = task(
        en_md="not this", task_py=f'{word} generate():\n    return "Sort {{n}} {{ }}", {{"n": 3, "seed": [1]}}\n'
    )

    loaded = load(folder)
    assert loaded.prompt == "Sort 3 { }"
    assert loaded.params == {"n": 3, "seed": [1]}
    assert load(folder, n="5").prompt == "Sort 5 { }"


def test_a_function_gets_the_parameters_that_it_names(task):
    folder = task(task_py='def generate(n=3):\n    return "Sort " + "x" * n, {"n": n}\n')

    loaded = load(folder, n="5")
    assert (loaded.prompt, loaded.params) == ("Sort xxxxx", {"n": 5})
    assert "expects a number, not 'many'" in refused(folder, n="many").message


def test_a_parameter_without_effect_is_refused(task):
    error = refused(task(en_md="Sort {number}.", params_py='def params():\n    return {"number": 1}'), numbr="3")
    assert error.message == "--param numbr: the task 'sorting' makes no use of it. Did you mean 'number'?"
    generated = task(task_py='def generate():\n    return "Sort 3", {"n": 3}')
    assert "makes no use" in refused(generated, n="5").message  # it would be recorded, and not be true


def test_modules_beside_the_code_are_found_and_nothing_stays(task, monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    folder = task(en_md="Sort {n}", params_py="import beside_it_xyz\ndef params():\n    return {'n': beside_it_xyz.N}")
    (folder / "beside_it_xyz.py").write_text("N = 4\nprint('noise on stdout')")
    path, modules, files = list(sys.path), set(sys.modules), sorted(folder.iterdir())

    assert load(folder).prompt == "Sort 4"

    assert sys.path == path
    assert "beside_it_xyz" not in set(sys.modules) - modules
    assert sorted(folder.iterdir()) == files


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1\ndef generate():\n    raise RuntimeError('no data')\n", "task.py, line 3: RuntimeError: no data"),
        ("x = 1\nraise KeyError('k')\n", "task.py, line 2: KeyError: 'k'"),
        ("def generate(:\n", "task.py, line 1: SyntaxError: "),
        ("import not_there_xyz\n", "task.py, line 1: ModuleNotFoundError: No module named 'not_there_xyz'"),
        ("def generate():\n    import json\n    json.loads('{')\n", "task.py, line 3: JSONDecodeError: "),
        ("async def generate():\n    raise ValueError('late')\n", "task.py, line 2: ValueError: late"),
        ("def generate():\n    raise SystemExit(3)\n", "task.py, line 2: SystemExit: 3"),
        ("import os, sys\nprint('bye', file=sys.stderr)\nsys.stderr.flush()\nos._exit(7)\n", "with status 7: bye"),
        ("x = 1\n", "task.py has no function generate()"),
        ("def generate():\n    return 'only a prompt'\n", "must give (prompt, params)"),
        ("def generate():\n    return 'p', ['no mapping']\n", "must be a mapping, not list"),
        ("def generate():\n    return 'p', {'a': {1, 2}}\n", "that JSON can't hold: Object of type set"),
        ("def generate():\n    return 'p', {'a': float('nan')}\n", "that JSON can't hold"),
        ("def generate():\n    return ' ', {}\n", "is empty"),
        ("def generate():\n    return '{gone}', {}\n", "the placeholder {gone} has no parameter"),
    ],
)
def test_code_that_fails_is_a_wrong_use_with_file_and_line(task, code, expected):
    error = refused(task(task_py=code))

    assert expected in error.message
    assert "Traceback" not in error.message
    assert error.mend


def test_a_hang_is_bounded_and_its_children_die_with_it(task, tmp_path):
    pid_file = tmp_path / "pid"
    folder = task(
        task_py=f"import subprocess, time\n"
        f"def generate():\n"
        f"    child = subprocess.Popen(['sleep', '300'])\n"
        f"    open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        f"    time.sleep(300)\n"
    )
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"generate\(\) had not ended after 1 s"):
        load_task(folder, params={}, code_timeout_s=1)

    assert time.monotonic() - began < 20
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "zombie" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc").exists() else True
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_what_is_missing_is_said_with_what_was_looked_for(task, tmp_path):
    assert "there is no task folder" in refused(tmp_path / "gone").message
    assert "is a file" in refused(task(en_md="x") / "en.md").message
    folder = task()
    (folder / "en.md").rename(folder / "fr.md")
    error = refused(folder)
    assert "looked for task.py, en.md and prompt.md (there is fr.md)" in error.message
    assert error.mend == "--lang fr"
    assert "no language code" in refused(folder, "../en").message


def test_a_prompt_that_is_no_text(task):
    folder = task(en_md="")
    assert "is empty" in refused(folder).message
    (folder / "en.md").write_bytes(b"caf\xe9")
    assert "en.md is not UTF-8" in refused(folder).message


def test_a_byte_order_mark_is_no_part_of_the_prompt(task):
    folder = task()
    (folder / "en.md").write_bytes(b"\xef\xbb\xbfSort.")
    assert load(folder).prompt == "Sort."


def test_the_hash_is_of_names_and_bytes(task):
    folder = task(en_md="Sort {n}.")
    first = load(folder, n="1").content_hash

    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    assert load(folder, n="2").content_hash == first

    (folder / "data").write_text("x")
    second = load(folder, n="1").content_hash
    (folder / "data").rename(folder / "date")
    third = load(folder, n="1").content_hash
    (folder / "date").unlink()
    (folder / "date").symlink_to("nowhere")
    assert len({first, second, third, load(folder, n="1").content_hash}) == 4


def test_a_folder_named_by_dots_has_its_own_name(task, monkeypatch):
    folder = task(en_md="Sort.")
    (folder / "below").mkdir()
    monkeypatch.chdir(folder)
    assert load(Path()).name == "sorting"
    monkeypatch.chdir(folder / "below")
    assert load(Path("..")).name == "sorting"
