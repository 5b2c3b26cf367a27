"""What runs here, so that the same runs there: pins for what an index has, wheels for what only this machine has."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator, Sequence

import attrs

from envoi_trace_core.errors import UsageError
from envoi_trace_core.plugins import CORE_DISTRIBUTION, Plugins
from envoi_trace_modal.launcher.wheels import Wheel, make_wheel

OWN_DISTRIBUTION = "envoi-trace-modal"


@attrs.frozen(kw_only=True)
class Distributions:
    """What the image must hold."""

    python: str
    """Such as 3.12: a pickled function is read by the same version that wrote it."""
    pins: tuple[str, ...]
    """envoi-trace and plugins that came from an index, as `name==version`."""
    wheels: tuple[Wheel, ...]
    """envoi-trace and plugins that did not: checkouts, editable installs, local files."""
    libraries: tuple[str, ...]
    """All that those need, as `name==version`, each at the version that is here."""


def distributions_here(plugins: Plugins) -> Distributions:
    """Look at what is installed.

    Raises:
        UsageError: Something that is on no index can't travel.
    """
    names = {CORE_DISTRIBUTION, OWN_DISTRIBUTION, *(plugin.distribution for plugin in plugins.installed)}
    pins: list[str] = []
    wheels: list[Wheel] = []
    found = {_normal(name): distribution for name in names if (distribution := _distribution(name)) is not None}
    for _, distribution in sorted(found.items()):
        if _is_from_index(distribution):
            pins.append(f"{distribution.name}=={distribution.version}")
        else:
            wheels.append(make_wheel(distribution))
    return Distributions(
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        pins=tuple(pins),
        wheels=tuple(wheels),
        libraries=tuple(sorted(_libraries(found))),
    )


def _libraries(roots: dict[str, importlib.metadata.Distribution]) -> Iterator[str]:
    """What the roots need, and what that needs; a version of this machine's own (`+cpu`) is left to the index."""
    pending = [(distribution, "") for distribution in roots.values()]
    seen: set[tuple[str, str]] = set()
    told: set[str] = set()
    while pending:
        distribution, extra = pending.pop()
        for name, extras in _needs(distribution, extra):
            needed = _distribution(name)
            if needed is None:
                continue
            key = _normal(name)
            pending += [(needed, each) for each in ("", *extras) if (key, each) not in seen]
            seen |= {(key, each) for each in ("", *extras)}
            if key not in roots and key not in told and _is_from_index(needed) and "+" not in needed.version:
                told.add(key)
                yield f"{needed.name}=={needed.version}"


def _needs(distribution: importlib.metadata.Distribution, extra: str) -> Iterator[tuple[str, Sequence[str]]]:
    from packaging.requirements import InvalidRequirement, Requirement

    for line in distribution.requires or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name, sorted(requirement.extras)


def _is_from_index(distribution: importlib.metadata.Distribution) -> bool:
    """PEP 610: what came from anywhere but an index says so."""
    text = distribution.read_text("direct_url.json")
    if text is None:
        return True
    try:
        return not json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"the installation of {distribution.name} is damaged: its direct_url.json is no JSON",
            mend=f"install {distribution.name} again",
        ) from error


def _distribution(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
