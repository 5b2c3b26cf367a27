"""Discovery of plugins, isolation of broken ones, look-up by name. The only file that touches pluggy's manager.

Every plugin, the built-in ones too, comes through the hooks of `envoi_trace_core.hookspecs`. Whatever a plugin does
wrong is kept as a `PluginProblem`: it never takes the command line down, and is an error only when the
name that was asked for is the one that failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, Literal, cast

import attrs
import pluggy

from envoi_trace_core import hookspecs
from envoi_trace_core.errors import PluginError, UsageError
from envoi_trace_core.options import check_options_class
from envoi_trace_core.specs import AgentSpec, AnySpec, LauncherSpec, PartParserSpec, SandboxSpec, StorageSpec
from envoi_trace_core.suggest import did_you_mean

GROUP = "envoi_trace"
CORE_DISTRIBUTION = "envoi-trace"
DISABLE_VARIABLE = "ENVOI_TRACE_DISABLE_PLUGINS"
"""Names of entry points that are left alone, separated by commas."""

Kind = Literal["agent", "sandbox", "storage", "part parser", "launcher"]
Phase = Literal["import", "registration", "unknown hook", "hook", "descriptor", "name clash"]

HOOKS: Mapping[str, tuple[Kind, type[Any]]] = {
    "envoi_trace_agents": ("agent", AgentSpec),
    "envoi_trace_sandboxes": ("sandbox", SandboxSpec),
    "envoi_trace_storages": ("storage", StorageSpec),
    "envoi_trace_part_parsers": ("part parser", PartParserSpec),
    "envoi_trace_launchers": ("launcher", LauncherSpec),
}
EXTRAS: Mapping[Kind, tuple[str, ...]] = {
    "agent": ("codex", "opencode"),
    "sandbox": ("modal", "e2b"),
    "storage": ("s3",),
    "launcher": ("modal",),
}
"""Plugins of our own that an extra of the core's distribution installs."""


@attrs.frozen(kw_only=True)
class PluginProblem:
    """Something that a plugin did wrong."""

    plugin: str
    """The name of its entry point."""
    distribution: str
    version: str | None
    phase: Phase
    error: str
    """One line."""
    names: tuple[str, ...] = ()
    """Of the descriptors that are missing because of it, as far as they are known."""
    cause: BaseException | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def line(self) -> str:
        """The problem as one line of text."""
        return f"plugin {self.plugin!r} ({self.distribution}) failed at {self.phase}: {self.error}"


@attrs.frozen(kw_only=True)
class InstalledPlugin:
    """One descriptor, and where it came from."""

    kind: Kind
    spec: AnySpec
    plugin: str
    distribution: str
    version: str | None

    @property
    def name(self) -> str:
        """What the user asks for."""
        return self.spec.name


@attrs.frozen(kw_only=True)
class Plugins:
    """All that is installed. Look-ups give descriptors; nothing else of the program sees a hook."""

    installed: tuple[InstalledPlugin, ...] = ()
    problems: tuple[PluginProblem, ...] = ()

    @classmethod
    def load(cls, *, warn: Callable[[str], None] | None = None) -> Plugins:
        """What is installed: found once a process; each problem is then warned about once, on one line.

        Args:
            warn: Told each line; by default it goes to stderr.
        """
        return _load_once(warn or _warn_on_stderr)

    @classmethod
    def discover(cls) -> Plugins:
        """Look anew, and warn about nothing."""
        return _Discovery().run()

    def all(self) -> tuple[InstalledPlugin, ...]:
        """Every plugin that works, by kind, then in the order of registration (built-ins first)."""
        order = [kind for kind, _ in HOOKS.values()]
        return tuple(sorted(self.installed, key=lambda plugin: order.index(plugin.kind)))

    def names(self, kind: Kind) -> tuple[str, ...]:
        """What can be asked for."""
        return tuple(plugin.name for plugin in self.installed if plugin.kind == kind)

    def agent(self, name: str) -> AgentSpec[Any]:
        """An agent by name.

        Raises:
            UsageError: There is none of that name.
            PluginError: Its plugin is broken.
        """
        return cast("AgentSpec[Any]", self._find("agent", name))

    def sandbox(self, name: str) -> SandboxSpec[Any]:
        """A sandbox by name; raises as `agent` does."""
        return cast("SandboxSpec[Any]", self._find("sandbox", name))

    def storage(self, name: str) -> StorageSpec[Any]:
        """A storage by name; raises as `agent` does."""
        return cast("StorageSpec[Any]", self._find("storage", name))

    def part_parser(self, event_format: str) -> PartParserSpec:
        """The parser of an event format; raises as `agent` does."""
        return cast("PartParserSpec", self._find("part parser", event_format))

    def launcher(self, name: str) -> LauncherSpec[Any]:
        """A launcher by name; raises as `agent` does."""
        return cast("LauncherSpec[Any]", self._find("launcher", name))

    def check_environment_argument(self, value: str) -> None:
        """Catch `--env modal`, which means `--sandbox modal`.

        Raises:
            UsageError: The value names a sandbox, and no folder.
        """
        known = {*self.names("sandbox"), *EXTRAS["sandbox"]}
        if value in known and not os.path.lexists(value):
            raise UsageError(
                f"--env takes the folder of an environment, and {value!r} is a sandbox",
                mend=f"--sandbox {value} --env PATH",
            )

    def _find(self, kind: Kind, name: str) -> AnySpec:
        for plugin in self.installed:
            if plugin.kind == kind and plugin.name == name:
                return plugin.spec
        for problem in self.problems:
            if name in (problem.plugin, *problem.names):
                raise PluginError(
                    f"{kind} {name!r} can't be used: {problem.line}", mend=f"envoi-trace plugins show {problem.plugin}"
                ) from problem.cause
        raise self._unknown(kind, name)

    def _unknown(self, kind: Kind, name: str) -> UsageError:
        names = self.names(kind)
        extras = EXTRAS.get(kind, ())
        installed = f"installed: {', '.join(names) or 'none'}"
        if name in extras:
            return UsageError(
                f"{kind} {name!r} is not installed ({installed})", mend=f'pip install "envoi-trace[{name}]"'
            )
        guess = did_you_mean(name, [*names, *extras])
        broken = sorted({problem.plugin for problem in self.problems})
        if broken:
            mend = f"envoi-trace plugins (a broken plugin may have it: {', '.join(broken)})"
        else:
            mend = "envoi-trace plugins lists what is installed"
        return UsageError(f"unknown {kind} {name!r}.{guess} {installed}", mend=mend)


@attrs.frozen(kw_only=True)
class _Source:
    plugin: str
    distribution: str
    version: str | None


@attrs.define
class _Discovery:
    """Goes through the plugins one by one, so that one failure touches nothing else."""

    _found: list[InstalledPlugin] = attrs.field(factory=list, init=False)
    _problems: list[PluginProblem] = attrs.field(factory=list, init=False)
    _manager: pluggy.PluginManager = attrs.field(init=False)

    def run(self) -> Plugins:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs.EnvoiTraceHooks)
        for source, load in _sources():
            self._add(source, load)
        return Plugins(installed=tuple(self._found), problems=tuple(self._problems))

    def _add(self, source: _Source, load: Callable[[], Any]) -> None:
        try:
            module = load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything
            self._problem(source, "import", _one_line(error), cause=error)
            return
        try:
            self._manager.register(module, name=f"{source.distribution}:{source.plugin}")
        except Exception as error:  # noqa: BLE001 - an argument that the specification lacks, a module twice
            self._problem(source, "registration", _one_line(error), cause=error)
            return
        callers = self._manager.get_hookcallers(module) or []
        if not callers:
            self._problem(source, "registration", "it implements no hook (is @hookimpl missing?)")
        for caller in callers:
            if caller.name not in HOOKS:
                self._problem(source, "unknown hook", f"{caller.name}{did_you_mean(caller.name, HOOKS)}")
                continue
            for implementation in caller.get_hookimpls():
                if implementation.plugin is module:
                    self._call(source, caller.name, implementation)

    def _call(self, source: _Source, hook: str, implementation: pluggy.HookImpl) -> None:
        kind, spec_class = HOOKS[hook]
        specs: list[Any] = []
        try:
            if implementation.hookwrapper or implementation.wrapper:
                raise TypeError("wrappers are not supported")  # noqa: TRY301
            for spec in cast("Iterable[Any]", implementation.function()):
                specs.append(spec)  # noqa: PERF402 - what came before a late raise must be there
        except (Exception, SystemExit) as error:  # noqa: BLE001
            names = tuple(spec.name for spec in specs if isinstance(spec, spec_class))
            self._problem(source, "hook", f"{hook}: {_one_line(error)}", names=names, cause=error)
            return
        for spec in specs:
            wrong = _wrong_with(spec, spec_class)
            if wrong is not None:
                name = getattr(spec, "name", None)
                names = (name,) if isinstance(name, str) else ()
                self._problem(source, "descriptor", f"{hook}: {wrong}", names=names)
                continue
            self._take(source, kind, spec)

    def _take(self, source: _Source, kind: Kind, spec: Any) -> None:
        for other in self._found:
            if (other.kind, other.name) == (kind, spec.name):
                self._problem(
                    source,
                    "name clash",
                    f"{kind} {spec.name!r} is taken by plugin {other.plugin!r} ({other.distribution}), which stays",
                )
                return
        self._found.append(
            InstalledPlugin(
                kind=kind,
                spec=spec,
                plugin=source.plugin,
                distribution=source.distribution,
                version=source.version,
            )
        )

    def _problem(
        self,
        source: _Source,
        phase: Phase,
        error: str,
        *,
        names: tuple[str, ...] = (),
        cause: BaseException | None = None,
    ) -> None:
        self._problems.append(
            PluginProblem(
                plugin=source.plugin,
                distribution=source.distribution,
                version=source.version,
                phase=phase,
                error=error,
                names=names,
                cause=cause,
            )
        )


def _sources() -> Iterator[tuple[_Source, Callable[[], Any]]]:
    """The built-ins, then the entry points, in an order that does not hang on the file system's."""
    yield _Source(plugin="builtin", distribution=CORE_DISTRIBUTION, version=version(CORE_DISTRIBUTION)), _load_builtin
    disabled = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",")}

    def order(entry_point: EntryPoint) -> tuple[str, str]:
        return (entry_point.dist.name if entry_point.dist else "", entry_point.name)

    for entry_point in sorted(entry_points(group=GROUP), key=order):
        if entry_point.name in disabled:
            continue
        dist = entry_point.dist
        source = _Source(
            plugin=entry_point.name,
            distribution=dist.name if dist else "unknown distribution",
            version=dist.version if dist else None,
        )
        yield source, entry_point.load


def _load_builtin() -> Any:
    from envoi_trace_core.builtin import plugin

    return plugin


def _wrong_with(spec: Any, spec_class: type[Any]) -> str | None:
    if not isinstance(spec, spec_class):
        return f"gave a {type(spec).__name__}, not a {spec_class.__name__}"
    if not isinstance(spec.name, str) or not spec.name or not spec.name.isprintable() or " " in spec.name:
        return f"gave a {spec_class.__name__} whose name is {spec.name!r:.100}"
    wrong = check_options_class(spec.options)
    return f"{spec.name!r}: {wrong}" if wrong is not None else None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


@cache
def _discover_once() -> Plugins:
    return Plugins.discover()


_warned: set[str] = set()


def _load_once(warn: Callable[[str], None]) -> Plugins:
    plugins = _discover_once()
    for problem in plugins.problems:
        if problem.line not in _warned:
            _warned.add(problem.line)
            warn(f"{problem.line} (envoi-trace plugins show {problem.plugin})")
    return plugins


def _warn_on_stderr(line: str) -> None:
    from envoi_trace_core.cli.output import warn

    warn(line)
