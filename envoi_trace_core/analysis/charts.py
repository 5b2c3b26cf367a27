"""The charts of one trajectory: passed tests by part and by elapsed time, overall and per suite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from envoi_trace_core.analysis.curves import IN_PROGRESS, Axis, Point, Position, Progress
from envoi_trace_core.analysis.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    VERMILLION,
    ImageFormat,
    Scale,
    count_axis,
    headline,
    label,
    new_figure,
    rendered,
    say,
    scale_of,
)
from envoi_trace_core.domain.parts import TestCounts
from envoi_trace_core.trace.reader import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 24
"""Suites in one chart; the smaller ones of more are one panel together."""
_MAX_MARKED_POINTS = 120
_WIDTH_IN = 10.0
_AXES: tuple[tuple[Axis, str], ...] = (("parts", "part"), ("time", "time"))


@attrs.frozen(kw_only=True)
class _Curve:
    """One line: a count that holds until the next point."""

    xs: Sequence[float]
    ys: Sequence[int]
    total: int

    @property
    def last(self) -> int | None:
        return self.ys[-1] if self.ys else None


def trajectory_charts(trace: Trace, progress: Progress, image_format: ImageFormat) -> dict[str, bytes]:
    """The four charts, by file name."""
    charts: dict[str, bytes] = {}
    for axis, word in _AXES:
        makers: dict[str, Callable[[], Figure]] = {
            f"passed_by_{word}": lambda axis=axis: _overall(trace, progress, axis),  # type: ignore[misc]
            f"suites_by_{word}": lambda axis=axis: _suites(trace, progress, axis),  # type: ignore[misc]
        }
        for name, make in makers.items():
            charts[f"{name}.{image_format}"] = rendered(make, image_format)
    return charts


def subtitle(trace: Trace, progress: Progress) -> str:
    """Who worked on what, and how far it came."""
    trajectory = trace.trajectory
    words = [" ".join(filter(None, (trajectory.agent, trajectory.model))), f"on {trajectory.task}"]
    if progress.points:
        best = max(progress.points, key=lambda point: point.counts.passed)
        words.append(f"best {best.counts.passed:,} of {progress.total_tests:,} tests at part {best.at.part:,}")
    return "  ·  ".join(words)


# -- overall ---------------------------------------------------------------------------------------


def _overall(trace: Trace, progress: Progress, axis: Axis) -> Figure:
    lanes = _lanes(progress)
    strip_in = 0.26 * len(lanes)
    height_in = 5.3 + strip_in
    figure = new_figure(_WIDTH_IN, height_in)
    headline(figure, f"Passed tests by {'part' if axis == 'parts' else 'elapsed time'}", subtitle(trace, progress))
    scale = scale_of(axis, progress.end.on(axis) or 0)
    ratios = [4.0, max(strip_in, 0.01)]
    grid = figure.add_gridspec(
        2, 1, height_ratios=ratios, hspace=0.06, left=1.35 / _WIDTH_IN if lanes else 0.085, right=0.955,
        top=1 - 0.95 / height_in, bottom=0.62 / height_in,
    )  # fmt: skip
    axes = figure.add_subplot(grid[0])
    _overall_curve(axes, progress, axis, scale)
    strip = figure.add_subplot(grid[1], sharex=axes) if lanes else None
    if strip is not None:
        _draw_lanes(strip, lanes, axis, scale)
        axes.tick_params(axis="x", labelbottom=False, length=0)
        axes.spines["bottom"].set_visible(False)
    for each in filter(None, (axes, strip)):
        _draw_bounds(each, progress, axis, scale)
    _name_bounds(axes, progress, axis, scale)
    scale.apply(strip or axes)
    return figure


def _overall_curve(axes: Axes, progress: Progress, axis: Axis, scale: Scale) -> None:
    count_axis(axes, progress.total_tests)
    axes.set_ylabel("passed tests")
    if not progress.points:
        say(axes, nothing_to_show(progress))
        return
    curve = _curve(progress, axis, scale, lambda point: point.counts, progress.total_tests)
    axes.axhline(progress.total_tests, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.fill_between(curve.xs, curve.ys, step="post", color=BLUE, alpha=0.12, linewidth=0)
    axes.step(curve.xs, curve.ys, where="post", color=BLUE, linewidth=2, solid_joinstyle="round")
    axes.plot(curve.xs[-1:], curve.ys[-1:], "o", color=BLUE, markersize=6, clip_on=False, zorder=5)
    if len(progress.points) <= _MAX_MARKED_POINTS:
        axes.plot(curve.xs[:-1], curve.ys[:-1], "o", color="white", markeredgecolor=BLUE, markersize=4.5,
                  markeredgewidth=1.4, clip_on=False)  # fmt: skip


def nothing_to_show(progress: Progress) -> str:
    """Why there is no curve."""
    if progress.failures:
        count = len(progress.failures)
        return f"No evaluation ran to its end: {count:,} failed" + (" (marked below)" if count else "")
    if not progress.end.part:
        return "No evaluation: the trajectory has no part"
    if not progress.checkpoints:
        return "No evaluation: no part changed a file"
    return "No evaluation: no commit was tested"


def _curve(
    progress: Progress, axis: Axis, scale: Scale, counts: Callable[[Point], TestCounts | None], total: int
) -> _Curve:
    """The count at each evaluation, and held to the end."""
    xs: list[float] = []
    ys: list[int] = []
    for point in progress.points:
        found = counts(point)
        if found is not None:
            xs.append(_x(point.at, axis, scale))
            ys.append(found.passed)
    if xs:
        xs.append(max(xs[-1], _x(progress.end, axis, scale)))
        ys.append(ys[-1])
    return _Curve(xs=xs, ys=ys, total=total)


def _x(position: Position, axis: Axis, scale: Scale) -> float:
    return (position.on(axis) or 0) * scale.factor


# -- marks -----------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Lane:
    name: str
    positions: Sequence[Position]
    color: str
    marker: str
    size: float


def _lanes(progress: Progress) -> list[_Lane]:
    """What happened when, a lane a kind; kinds that did not happen have none."""
    built = [point.at for point in progress.failures if point.status == "build_failed"]
    broken = [point.at for point in progress.failures if point.status != "build_failed"]
    lanes = [
        _Lane(name="checkpoints", positions=[mark.at for mark in progress.checkpoints], color=GREY, marker="|", size=7),
        _Lane(name="build failed", positions=built, color=VERMILLION, marker="x", size=5.5),
        _Lane(name="evaluation error", positions=broken, color=ORANGE, marker="D", size=4),
    ]
    return [lane for lane in lanes if lane.positions]


def _draw_lanes(strip: Axes, lanes: Sequence[_Lane], axis: Axis, scale: Scale) -> None:
    for number, lane in enumerate(lanes):
        xs = [_x(position, axis, scale) for position in lane.positions]
        thin = len(xs) > 2 * _MAX_MARKED_POINTS
        strip.plot(xs, [number] * len(xs), lane.marker, color=lane.color, markersize=lane.size,
                   markeredgewidth=0.5 if thin else 1.3, alpha=0.6 if thin else 1, clip_on=False)  # fmt: skip
    strip.set_yticks(range(len(lanes)), [f"{lane.name} ({len(lane.positions):,})" for lane in lanes], fontsize=8.5)
    strip.set_ylim(len(lanes) - 0.4, -0.6)
    strip.grid(visible=False)
    strip.spines["left"].set_visible(False)
    strip.tick_params(axis="y", length=0)
    strip.set_facecolor("#F6F6F6")


def _draw_bounds(axes: Axes, progress: Progress, axis: Axis, scale: Scale) -> None:
    """The horizontal range, session restarts and the end."""
    end = _x(progress.end, axis, scale)
    axes.set_xlim(0, end * 1.012 if end else 1)
    for restart in progress.restarts:
        axes.axvline(_x(restart.at, axis, scale), color=PURPLE, linewidth=1.1, linestyle=(0, (2, 2)))
    if progress.end.part:
        goes_on = progress.end_reason == IN_PROGRESS
        axes.axvline(end, color=_end_color(progress), linewidth=1.6, linestyle=(0, (1, 2)) if goes_on else "-")


def _name_bounds(axes: Axes, progress: Progress, axis: Axis, scale: Scale) -> None:
    transform = axes.get_xaxis_transform()
    if progress.end.part:
        axes.text(_x(progress.end, axis, scale), 1.015, progress.end_reason.replace("_", " "), transform=transform,
                  ha="right", va="bottom", fontsize=9, fontweight="bold", color=_end_color(progress))  # fmt: skip
    if progress.restarts:
        count = len(progress.restarts)
        axes.text(_x(progress.restarts[0].at, axis, scale), 1.015,
                  "new session" if count == 1 else f"new sessions ({count:,})", transform=transform,
                  ha="left", va="bottom", fontsize=9, color=PURPLE)  # fmt: skip


def _end_color(progress: Progress) -> str:
    if progress.end_reason == "solved":
        return GREEN
    if progress.end_reason == IN_PROGRESS:
        return GREY
    return VERMILLION if progress.end_reason.endswith("error") else INK


# -- per suite --------------------------------------------------------------------------------------


def _suites(trace: Trace, progress: Progress, axis: Axis) -> Figure:
    panels = panels_of(progress.suite_totals)
    title = f"Passed tests of each suite by {'part' if axis == 'parts' else 'elapsed time'}"
    if not panels:
        figure = new_figure(_WIDTH_IN, 4.2)
        headline(figure, title, subtitle(trace, progress))
        axes = figure.add_axes((0.06, 0.08, 0.89, 0.68))
        axes.set_xticks([])
        axes.set_yticks([])
        say(axes, nothing_to_show(progress))
        return figure
    columns = _columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    height_in = 1.5 + rows * (1.5 if rows > 2 else 2.1)
    figure = new_figure(_WIDTH_IN, height_in)
    headline(figure, title, subtitle(trace, progress))
    grid = figure.add_gridspec(
        rows, columns, left=0.06, right=0.965, top=1 - 1.05 / height_in, bottom=0.62 / height_in,
        hspace=0.62 if rows > 2 else 0.45, wspace=0.24,
    )  # fmt: skip
    scale = scale_of(axis, progress.end.on(axis) or 0)
    for number, (name, suites) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        total = sum(progress.suite_totals[suite] for suite in suites)
        _panel(axes, name, _curve(progress, axis, scale, _counts_of(suites), total), 112 // columns)
        _draw_bounds(axes, progress, axis, scale)
        has_none_below = number + columns >= len(panels)
        scale.apply(axes, show_title=has_none_below)
        axes.tick_params(axis="x", labelbottom=has_none_below, labelsize=8)
        axes.locator_params(axis="x", nbins=4)
    return figure


def panels_of(totals: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Which suites stand in which panel: one each, and the smaller ones of too many together in the last."""
    if len(totals) <= MAX_PANELS:
        return {suite: (suite,) for suite in totals}
    largest = frozenset(sorted(totals, key=lambda suite: -totals[suite])[: MAX_PANELS - 1])
    rest = tuple(suite for suite in totals if suite not in largest)
    panels = {suite: (suite,) for suite in totals if suite in largest}
    return panels | {f"{len(rest)} smaller suites": rest}


def _counts_of(suites: Sequence[str]) -> Callable[[Point], TestCounts | None]:
    def counts(point: Point) -> TestCounts | None:
        found = [point.suites[suite] for suite in suites if suite in point.suites]
        return sum(found, TestCounts()) if found else None

    return counts


def _columns(count: int) -> int:
    for limit, columns in ((1, 1), (4, 2), (9, 3)):
        if count <= limit:
            return columns
    return 4


def _panel(axes: Axes, name: str, curve: _Curve, title_columns: int) -> None:
    done = curve.total > 0 and curve.last == curve.total
    color = GREEN if done else BLUE
    count_axis(axes, curve.total)
    axes.set_yticks([0, curve.total] if curve.total else [0])
    axes.axhline(curve.total, color=PALE, linewidth=0.9)
    axes.fill_between(curve.xs, curve.ys, step="post", color=color, alpha=0.16, linewidth=0)
    axes.step(curve.xs, curve.ys, where="post", color=color, linewidth=1.7)
    axes.plot(curve.xs[-1:], curve.ys[-1:], "o", color=color, markersize=4, clip_on=False, zorder=5)
    axes.tick_params(axis="y", labelsize=8)
    text: dict[str, Any] = {"transform": axes.transAxes, "va": "bottom", "fontsize": 9}
    result = "-" if curve.last is None else f"{curve.last:,}/{curve.total:,}"
    axes.text(1.0, 1.04, result, ha="right", color=color, fontweight="bold", **text)
    axes.text(0.0, 1.04, label(name, max(8, title_columns - len(result) - 2)), ha="left", **text)
