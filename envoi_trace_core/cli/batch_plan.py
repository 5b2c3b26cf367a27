"""A batch's plan: a TOML file with a matrix of agents, models, tasks and environments, read strictly.

    name = "nightly"
    trials = 3
    agents = ["codex", { agent = "codex", name = "codex-high", agent-opt = { effort = "high" } }]
    models = ["gpt-5.1", "gpt-5.1-mini"]
    tasks = [{ task = "tasks/sort", env = "environments/sort", max-parts = 200 }]

    [defaults]
    sandbox = "local"

Each list is an axis; a cell is one entry of each. An entry is a value, or a table of run options; what an entry says
goes over `[defaults]`, later axes go over earlier ones, and options of the command line go over all. Relative paths
are relative to the plan's file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from envoi_trace_core.cli.batch_values import BATCH_KEYS, CELL_OPTIONS, OWN_WORD, option_value, plain_value
from envoi_trace_core.cli.run_options import RunOptions
from envoi_trace_core.config import parse_toml
from envoi_trace_core.errors import EnvoiTraceError, UsageError
from envoi_trace_core.options import describe_options, parse_options
from envoi_trace_core.plugins import Plugins
from envoi_trace_core.suggest import did_you_mean

AXES: Mapping[str, str] = {"agents": "agent", "models": "model", "tasks": "task", "environments": "env"}
"""Axis to the run option that its entries name."""
PATHS = ("task", "env")
TOP_KEYS = (*BATCH_KEYS, "storage", "storage-opt", "labels", "defaults", *AXES)
BY_KEY = ("agent_opt", "sandbox_opt", "param", "label")
"""Options of `KEY=VALUE` words, in which a key that is given again takes the place of the earlier one."""


@attrs.frozen(kw_only=True)
class Entry:
    """One entry of an axis, or the defaults."""

    where: str
    """How an error names it: `agents[0]`."""
    name: str | None = None
    values: Mapping[str, Any] = attrs.field(factory=dict)
    """Run options by name, checked one by one."""


@attrs.frozen(kw_only=True)
class PlanCell:
    """One cell, before it is a configuration."""

    words: Sequence[str]
    """What tells it apart."""
    options: RunOptions


@attrs.frozen(kw_only=True)
class Plan:
    """A plan that was read; its cells name things that exist, and may still be refused by what they name."""

    name: str
    cells: Sequence[PlanCell]
    trials: int | None = None
    concurrency: int | None = None
    retries: int | None = None
    max_total_cost_usd: float | None = None


def read_plan(path: Path, options: RunOptions, plugins: Plugins) -> Plan:
    """Read a plan.

    Args:
        path: The file.
        options: The command line's; what stands there goes over the plan.
        plugins: What is installed.

    Raises:
        UsageError: It can't be read, or a key, value or path in it is wrong; the message names file and key.
        PluginError: A plugin that it names is broken.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"the plan {path} {what}", mend="envoi-trace batch PLAN.toml")
    try:
        return _Reader(folder=path.absolute().parent, options=options, plugins=plugins).plan(parse_toml(path))
    except _WrongPlanError as error:
        raise UsageError(f"{path}: {error.message}", mend=error.mend) from error


class _WrongPlanError(EnvoiTraceError):
    """Something in the plan is wrong; the message begins with its key."""


@attrs.frozen(kw_only=True)
class _Reader:
    folder: Path
    options: RunOptions
    plugins: Plugins

    def plan(self, table: Mapping[str, Any]) -> Plan:
        for key in table:
            _check_key(key.replace("_", "-"), TOP_KEYS, key)
        top = {key.replace("_", "-"): value for key, value in table.items()}
        own = {key: _checked(key, plain_value, key, top[key]) for key in BATCH_KEYS if key in top}
        if "name" not in own and self.options.batch is None:
            raise _WrongPlanError("name is missing: the ids of the trajectories begin with it", mend='name = "nightly"')
        axes = {axis: self._axis(axis, top[axis]) for axis in AXES if axis in top}
        defaults = self._entry("defaults", top.get("defaults", {}), set(axes))
        cells = list(self._cells(axes, defaults, self._of_all(top)))
        return Plan(
            name=own.get("name", ""),
            cells=cells,
            trials=own.get("trials"),
            concurrency=own.get("concurrency"),
            retries=own.get("retries"),
            max_total_cost_usd=own.get("max-total-cost-usd"),
        )

    def _of_all(self, top: Mapping[str, Any]) -> dict[str, Any]:
        """The storage and the labels: of every cell."""
        found: dict[str, Any] = {}
        for key, name in (("storage", "storage"), ("storage-opt", "storage_opt"), ("labels", "label")):
            if key in top:
                found[name] = _checked(key, option_value, name, top[key])
        if "storage" in found:
            spec = _checked("storage", self.plugins.storage, found["storage"])
            _checked("storage-opt", parse_options, spec.options, found.get("storage_opt", ()), "storage", spec.name)
        return found

    # -- entries ----------------------------------------------------------------------------------

    def _axis(self, axis: str, value: Any) -> list[Entry]:
        key = AXES[axis]
        if not isinstance(value, list) or not value:
            raise _WrongPlanError(f"{axis}: expects a list of at least one entry, not {value!r:.80}")
        entries = []
        for index, item in enumerate(value):
            where = f"{axis}[{index}]"
            entry = self._entry(where, {key: item} if isinstance(item, str) else item, set())
            if key not in entry.values:
                raise _WrongPlanError(f"{where} has no {key!r}", mend=f'{key} = "..."')
            entries.append(entry)
        return entries

    def _entry(self, where: str, table: Any, taken: set[str]) -> Entry:
        """Check an entry; `taken` are axes whose option it may not name."""
        if not isinstance(table, dict):
            raise _WrongPlanError(f"{where}: expects a table of run options, not {table!r:.80}")
        is_default = where == "defaults"
        name = None
        values: dict[str, Any] = {}
        for key, value in table.items():
            at = f"{where}.{key}"
            if key == "name" and not is_default:
                name = _checked(at, plain_value, "name", value)
                continue
            option = key.replace("-", "_")
            own_place = OWN_WORD.get(option)
            if own_place is not None:
                raise _WrongPlanError(f"{at} can't stand there: {own_place}")
            allowed = [word.replace("_", "-") for word in CELL_OPTIONS]
            _check_key(option.replace("_", "-"), allowed if is_default else ["name", *allowed], at)
            values[option] = self._value(at, option, value)
        for axis in taken:
            if AXES[axis] in values:
                raise _WrongPlanError(f"{where}.{AXES[axis]} can't stand there: the plan has {axis!r}")
        return Entry(where=where, name=name, values=values)

    def _value(self, at: str, option: str, value: Any) -> Any:
        checked = _checked(at, option_value, option, value)
        if option in PATHS:
            path = self._absolute(checked)
            if not path.is_dir():
                what = "is a file" if path.exists() else "does not exist"
                raise _WrongPlanError(f"{at}: expects a folder (relative to the plan's), and {path} {what}")
            return str(path)
        if option == "agent":
            _checked(at, self.plugins.agent, checked)
        elif option == "sandbox":
            _checked(at, self.plugins.sandbox, checked)
        return checked

    def _absolute(self, text: str) -> Path:
        path = self.folder / Path(text).expanduser()
        return path.resolve() if ".." in path.parts else path

    # -- cells ------------------------------------------------------------------------------------

    def _cells(
        self, axes: Mapping[str, Sequence[Entry]], defaults: Entry, of_all: Mapping[str, Any]
    ) -> Iterator[PlanCell]:
        self._check_axes(axes)
        common = _over(defaults.values, of_all)
        for entries in itertools.product(*axes.values()):
            values: Mapping[str, Any] = common
            names: dict[str, str] = {}
            for axis, entry in zip(axes, entries, strict=True):
                values = _over(values, entry.values)
                if entry.name is not None:
                    names[AXES[axis]] = entry.name
            options = self._options(values)
            for key in PATHS:
                if getattr(options, key) is None:
                    axis = next(axis for axis, named in AXES.items() if named == key)
                    raise _WrongPlanError(f"no {key!r}: it may stand in {axis!r}, in another entry, or in [defaults]")
            yield PlanCell(words=_words(options, names), options=options)

    def _check_axes(self, axes: Mapping[str, Sequence[Entry]]) -> None:
        """No option may be said by two axes, or by an axis and the command line."""
        for axis, entries in axes.items():
            key = AXES[axis]
            if key in self.options.given:
                raise UsageError(f"--{key} stands beside the plan's {axis!r}", mend=f"one of them names the {key}")
            for other in entries:
                for taken in axes:
                    if taken != axis and AXES[taken] in other.values:
                        raise _WrongPlanError(f"{other.where}.{AXES[taken]} can't stand there: the plan has {taken!r}")

    def _options(self, values: Mapping[str, Any]) -> RunOptions:
        """The settings from outside, the plan over them, the command line over that."""
        given = {name: getattr(self.options, name) for name in CELL_OPTIONS if name in self.options.given}
        given |= {
            name: getattr(self.options, name) for name in ("storage", "storage_opt") if name in self.options.given
        }
        settings = {name: getattr(self.options, name) for name in ("sandbox", "sandbox_opt", "storage", "storage_opt")}
        said = _over(self._with_absolute_paths(values), given)
        for kind in ("sandbox", "storage"):
            if kind in said and said[kind] != settings[kind]:
                settings.pop(f"{kind}_opt")  # it belongs to the one that the settings name
        return RunOptions(**{**settings, **said}, given=self.options.given)

    def _with_absolute_paths(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Options of plugins that are paths, too."""
        found = dict(values)
        of_kind: dict[str, Callable[[str], Any]] = {
            "agent": self.plugins.agent,
            "sandbox": self.plugins.sandbox,
            "storage": self.plugins.storage,
        }
        for kind, look_up in of_kind.items():
            words, name = values.get(f"{kind}_opt"), values.get(kind, getattr(self.options, kind))
            if words and name is not None:
                infos = describe_options(look_up(name).options)
                paths = {info.name for info in infos if info.type == "path"}
                found[f"{kind}_opt"] = tuple(self._absolute_word(word, paths) for word in words)
        return found

    def _absolute_word(self, word: str, paths: set[str]) -> str:
        key, separator, value = word.partition("=")
        if key.strip().replace("-", "_") in paths and value:
            return f"{key}{separator}{self._absolute(value)}"
        return word


def _words(options: RunOptions, names: Mapping[str, str]) -> list[str]:
    """What tells a cell apart: an entry's own name, else what it names."""
    found: list[str] = []
    for key in AXES.values():
        value = getattr(options, key)
        if value is not None:
            found.append(names.get(key) or (Path(value).name if key in PATHS else value))
    return found


def _over(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    """Options with others over them; lists of `KEY=VALUE` are joined key by key, hidden paths are added."""
    from envoi_trace_core.cli.run_config import merged

    found = {**weak, **strong}
    for name in weak.keys() & strong.keys():
        if name in BY_KEY:
            found[name] = merged(weak[name], strong[name])
        elif name == "hidden":
            found[name] = tuple(dict.fromkeys((*weak[name], *strong[name])))
    return found


def _check_key(key: str, allowed: Sequence[str], shown: str) -> None:
    if key not in allowed:
        raise _WrongPlanError(
            f"unknown key {shown!r}.{did_you_mean(key, allowed)}", mend=f"it takes: {', '.join(allowed)}"
        )


def _checked(at: str, check: Any, *arguments: Any) -> Any:
    """What a check gives; its error begins with the key."""
    try:
        return check(*arguments)
    except UsageError as error:
        raise _WrongPlanError(f"{at}: {error.message}", mend=error.mend) from error
