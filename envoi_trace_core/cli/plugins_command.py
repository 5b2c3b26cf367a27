"""`envoi-trace plugins`: what is installed, and what is broken."""

from __future__ import annotations

from typing import Annotated, Any

import attrs
import typer

from envoi_trace_core.cli.output import Cell, out, out_fields, out_json, out_table, printable, styled
from envoi_trace_core.errors import UsageError
from envoi_trace_core.options import OptionInfo, describe_options
from envoi_trace_core.plugins import InstalledPlugin, PluginProblem, Plugins
from envoi_trace_core.specs import AgentSpec
from envoi_trace_core.suggest import did_you_mean


def plugins(
    action: Annotated[str | None, typer.Argument(help="`show`: one plugin in full.", metavar="[show")] = None,
    name: Annotated[str | None, typer.Argument(help="Which one.", metavar="NAME]")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """List every plugin: name, kind, distribution, version, status. `plugins show NAME` prints its options."""
    if action not in (None, "show") or (action == "show") != (name is not None):
        raise UsageError(
            f"`plugins` takes nothing, or `show NAME`, not {' '.join(filter(None, (action, name)))!r}",
            mend="envoi-trace plugins show NAME",
        )
    found = Plugins.discover()
    if name is None:
        _list(found, as_json=json)
    else:
        _show(found, name, as_json=json)


def _list(found: Plugins, *, as_json: bool) -> None:
    if as_json:
        out_json([*(_summary(plugin) for plugin in found.all()), *(_broken(problem) for problem in found.problems)])
        return
    rows: list[list[str | Cell]] = [
        [plugin.name, plugin.kind, plugin.distribution, plugin.version or "", Cell("ok", "green"), plugin.spec.summary]
        for plugin in found.all()
    ]
    rows += [
        [
            Cell(problem.plugin, "bold"), "", problem.distribution, problem.version or "", Cell("broken", "red"),
            f"{problem.phase}: {problem.error}",
        ]
        for problem in found.problems
    ]  # fmt: skip
    out_table(["name", "kind", "distribution", "version", "status", ""], rows)


def _show(found: Plugins, name: str, *, as_json: bool) -> None:
    matching = [plugin for plugin in found.all() if plugin.name == name]
    problems = [problem for problem in found.problems if name in (problem.plugin, *problem.names)]
    if not matching and not problems:
        known = [plugin.name for plugin in found.installed] + [problem.plugin for problem in found.problems]
        raise UsageError(f"no plugin {name!r} is installed.{did_you_mean(name, known)}", mend="envoi-trace plugins")
    if as_json:
        out_json([*(_full(plugin) for plugin in matching), *(_broken(problem) for problem in problems)])
        return
    for index, plugin in enumerate(matching):
        if index:
            out()
        _show_one(plugin)
    for index, problem in enumerate(problems):
        if index or matching:
            out()
        out(f"{styled(printable(problem.plugin), 'bold')}  {styled('broken', 'red')}")
        out_fields(
            [
                ("distribution", f"{problem.distribution} {problem.version or ''}"),
                ("phase", problem.phase),
                ("error", problem.error),
            ]
        )


def _show_one(plugin: InstalledPlugin) -> None:
    out(f"{styled(printable(plugin.name), 'bold')}  {plugin.kind}: {printable(plugin.spec.summary)}")
    spec = plugin.spec
    fields: list[tuple[str, str | Cell | None]] = [("distribution", f"{plugin.distribution} {plugin.version or ''}")]
    if isinstance(spec, AgentSpec):
        fields.append(("events", spec.event_format))
    out_fields(fields)
    options = describe_options(spec.options)
    if not options:
        out("no options")
        return
    flag = f"--{plugin.kind}-opt" if plugin.kind in ("agent", "sandbox", "storage") else "options"
    out()
    rows = [[option.name, _default(option), option.type, _help(option)] for option in options]
    out_table([f"{flag} KEY=VALUE", "default", "type", ""], rows)


def _default(option: OptionInfo) -> str:
    if option.default is None or option.default in ("", ()):
        return "-"
    if option.secret:
        return "***"
    if isinstance(option.default, bool):
        return str(option.default).lower()
    if isinstance(option.default, tuple):
        return ",".join(map(str, option.default))
    return f"{option.default}{f' {option.unit}' if option.unit else ''}"


def _help(option: OptionInfo) -> str:
    unit = f" ({option.unit})" if option.unit and option.default is None else ""
    return f"{option.help}{unit}{' (secret: never stored)' if option.secret else ''}"


def _summary(plugin: InstalledPlugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "kind": plugin.kind,
        "plugin": plugin.plugin,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": "ok",
        "summary": plugin.spec.summary,
    }


def _full(plugin: InstalledPlugin) -> dict[str, Any]:
    options = [attrs.asdict(option) for option in describe_options(plugin.spec.options)]
    for option in options:
        if option["secret"] and option["default"]:
            option["default"] = "***"
    return {**_summary(plugin), "options": options}


def _broken(problem: PluginProblem) -> dict[str, Any]:
    return {
        "name": problem.plugin,
        "kind": None,
        "plugin": problem.plugin,
        "distribution": problem.distribution,
        "version": problem.version,
        "status": "broken",
        "phase": problem.phase,
        "error": problem.error,
    }
