"""A plan's keys, values and paths, and the ids that are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envoi_trace_core.cli.batch_plan import TOP_KEYS
from envoi_trace_core.cli.batch_run import as_batch
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.errors import UsageError
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.run.batch.cells import Trial, cell_name

PLAN = """
name = "nightly"
trials = 2
agents = ["script", { agent = "script", name = "quick", agent-opt = { script = "quick.jsonl" } }]
models = ["m-1", "m/2.5"]
labels = { purpose = "test", kept = "plan" }
storage = "local"
storage-opt = { root = "out" }
[[tasks]]
task = "tasks/sort"
env = "envs/sort"
max-parts = 7
hidden = ["suite/*"]
label = { kept = "entry" }
[defaults]
sandbox = "local"
max-parts = 5
max-cost-usd = 3
agent-opt = { script = "other.jsonl" }
hidden = ["secret"]
"""


@pytest.fixture
def plan_of(folder, tmp_path):
    """The batch of a plan that stands in a folder with a task and an environment, read from another folder."""
    place = tmp_path / "plans"
    for name in ("tasks/sort", "envs/sort"):
        (place / name).mkdir(parents=True)
    (place / "tasks/sort/en.md").write_text("Sort.")
    (place / "envs/sort/main.py").write_text("")
    (place / "quick.jsonl").write_text('{"text": "a"}\n')

    def read(text, **options):
        (place / "plan.toml").write_text(text)
        given = RunOptions(quiet=True, given=frozenset(options), **options)
        return as_batch(place / "plan.toml", given, Plugins.load())

    read.place = place
    return read


def test_a_cell_is_one_entry_of_each_axis_and_what_is_nearer_goes_over(plan_of):
    batch = plan_of(PLAN)
    place = plan_of.place
    assert (batch.name, batch.trials, batch.concurrency, batch.retries) == ("nightly", 2, 4, 2)
    assert [cell.name for cell in batch.cells] == [
        "script.m-1.sort.sort", "script.m-2-5.sort.sort", "quick.m-1.sort.sort", "quick.m-2-5.sort.sort",
    ]  # fmt: skip
    first, last = batch.cells[0].config, batch.cells[-1].config
    assert (first.model, last.model) == ("m-1", "m/2.5")
    assert (first.max_parts, first.max_cost_usd) == (7, 3.0)
    assert first.agent_opts == (f"script={place / 'other.jsonl'}",)
    assert last.agent_opts == (f"script={place / 'quick.jsonl'}",)
    assert first.hidden == ("secret", "suite/*")
    assert first.labels == {"purpose": "test", "kept": "entry"}
    assert (first.task, first.environment) == (str(place / "tasks/sort"), str(place / "envs/sort"))
    assert (first.storage, first.storage_opts) == ("local", (f"root={place / 'out'}",))


def test_the_command_line_goes_over_the_plan(plan_of):
    batch = plan_of(PLAN, trials=9, max_parts=1, batch="other", sandbox="local", concurrency=2, retries=0)
    assert (batch.name, batch.trials, batch.concurrency, batch.retries) == ("other", 9, 2, 0)
    assert {cell.config.max_parts for cell in batch.cells} == {1}


def test_ids_are_readable_safe_and_the_same_every_time(plan_of):
    batch = plan_of(PLAN)
    ids = [batch.trajectory_id(trial, 1) for trial in batch.all_trials()]
    assert ids == [plan_of(PLAN).trajectory_id(trial, 1) for trial in batch.all_trials()]
    assert len(set(ids)) == 8
    assert ids[0] == "nightly.script.m-1.sort.sort.t1"
    assert ids[4] == "nightly.script.m-1.sort.sort.t2", "the first trial of every cell comes before the second of any"
    trial = Trial(cell=batch.cells[0], number=1)
    assert batch.trajectory_id(trial, 3) == "nightly.script.m-1.sort.sort.t1.a3"
    config = batch.config(trial, 3)
    assert (config.batch, config.trial, config.labels["cell"]) == ("nightly", 1, "script.m-1.sort.sort")


def test_long_names_are_cut_and_stay_apart():
    names = {cell_name(["agent", "m" * 200 + end, "task", "env"]) for end in "ab"}
    assert len(names) == 2
    assert all(len(name) <= 72 for name in names)
    assert cell_name(["模型"]) != cell_name(["模形"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("trials = 2", "trails = 2"), "unknown key 'trails'. Did you mean 'trials'?"),
        (("trials = 2", "trials = 0"), "trials: expects a whole number of at least 1, not 0"),
        (("trials = 2", 'trials = "2"'), "trials: expects a whole number of at least 1, not '2'"),
        (("trials = 2", "trials = true"), "trials: expects a whole number"),
        (('name = "nightly"', ""), "name is missing"),
        (('"nightly"', '"night/ly"'), "can't be the name of a batch"),
        (("max-parts = 7", "max-prats = 7"), "unknown key 'tasks[0].max-prats'. Did you mean 'max-parts'?"),
        (("max-parts = 7", 'max-parts = "7"'), "tasks[0].max-parts: expects a whole number of at least 1, not '7'"),
        (("max-cost-usd = 3", "max-cost-usd = -1"), "defaults.max-cost-usd: expects a number of at least 0"),
        (("max-cost-usd = 3", 'eval-sandbox = "none"'), "defaults.eval-sandbox: expects one of separate, shared"),
        (("max-cost-usd = 3", 'storage = "s3"'), "a batch has one storage"),
        (("max-cost-usd = 3", "detach = true"), "envoi-trace batch PLAN.toml --detach"),
        (("max-cost-usd = 3", 'model = "x"'), "defaults.model can't stand there: the plan has 'models'"),
        (('sandbox = "local"', 'sandbox = "locl"'), "defaults.sandbox: unknown sandbox 'locl'. Did you mean 'local'?"),
        (('["script", ', '["scrpt", '), "agents[0].agent: unknown agent 'scrpt'. Did you mean 'script'?"),
        (('"tasks/sort"', '"tasks/srt"'), "tasks[0].task: expects a folder"),
        (('"tasks/sort"', '"quick.jsonl"'), "is a file"),
        (('env = "envs/sort"', ""), "no 'env'"),
        (('models = ["m-1", "m/2.5"]', "models = []"), "models: expects a list of at least one entry"),
        (('models = ["m-1", "m/2.5"]', "models = [3]"), "models[0]: expects a table"),
        (('models = ["m-1", "m/2.5"]', 'models = [{ name = "x" }]'), "models[0] has no 'model'"),
        (('"m/2.5"]', '{ model = "x", agent = "codex" }]'), "models[1].agent can't stand there"),
        (('root = "out"', "root = { a = 1 }"), "storage-opt: expects texts"),
        (('root = "out"', 'rot = "out"'), "storage-opt: unknown option 'rot' of storage 'local'. Did you mean 'root'?"),
        (("labels = {", "labels = 3 #{"), "labels: expects a table"),
        (("trials = 2", "trials = = 2"), "no valid TOML"),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_what_is_allowed(plan_of, change, expected):
    assert change[0] in PLAN
    with pytest.raises(UsageError) as error:
        plan_of(PLAN.replace(*change, 1))
    text = f"{error.value.message} {error.value.mend}"
    assert expected in text
    assert "plan.toml" in text or "name of a batch" in text
    assert "\n" not in text.strip()


def test_the_command_line_names_no_agent_beside_the_plans(plan_of):
    with pytest.raises(UsageError, match="--agent stands beside the plan's 'agents'"):
        plan_of(PLAN, agent="script")


def test_every_top_key_is_in_the_manual_of_an_unknown_one(plan_of):
    with pytest.raises(UsageError) as error:
        plan_of("nothing = 1")
    assert all(key in str(error.value.mend) for key in TOP_KEYS)


def test_all_cells_are_checked_before_anything_starts(plan_of, cli):
    (plan_of.place / "tasks/sort/script.jsonl").write_text('{"txt": "a"}\n')
    (plan_of.place / "plan.toml").write_text(PLAN.replace('script = "other.jsonl"', 'script = "none.jsonl"'))
    done = cli("batch", str(plan_of.place / "plan.toml"))
    assert done.returncode == 2
    assert "plan.toml: cell script.m-1.sort.sort: there is no script" in done.stderr
    assert not (plan_of.place / "out").exists()


def test_two_cells_of_one_name_are_refused(plan_of, cli):
    text = PLAN.replace('name = "quick", ', "")
    (plan_of.place / "plan.toml").write_text(text)
    done = cli("batch", str(plan_of.place / "plan.toml"))
    assert done.returncode == 2
    assert "two cells are called 'script.m-1.sort.sort'" in done.stderr
    assert 'name = "' in done.stderr


def test_dry_run_lists_and_starts_nothing(plan_of, cli):
    text = PLAN.replace('"m/2.5"', "").replace('script = "other.jsonl"', 'script = "quick.jsonl"')
    (plan_of.place / "plan.toml").write_text(text)
    done = cli("batch", str(plan_of.place / "plan.toml"), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [trial["what"] for trial in told["trials"]] == ["starts"] * 4
    assert told["trials"][0]["trajectory_id"] == "nightly.script.m-1.sort.sort.t1"
    assert not list((plan_of.place / "out").glob("**/*"))


def test_a_plan_that_is_not_there(cli):
    for words in (["batch", "none.toml"], ["batch", "."], ["batch"]):
        done = cli(*words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_the_example_is_a_plan_that_can_run(cli):
    example = Path(__file__).parents[3] / "examples" / "batch.toml"
    done = cli("batch", str(example), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["trials"]) == 6
