"""Charts of a comparison: the curves of several trajectories in one, and the solve rates of groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from envoi_trace_core.analysis.compare import PARTS_DIFFER, Compared, notes_on
from envoi_trace_core.analysis.curves import Axis, Point
from envoi_trace_core.analysis.figures import (
    DASHES,
    GREY,
    PALE,
    SERIES,
    ImageFormat,
    Scale,
    headline,
    label,
    new_figure,
    rendered,
    say,
    scale_of,
)
from envoi_trace_core.analysis.groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Measure = Literal["tests", "paths"]
MAX_NAMED = 14
"""Curves with a colour and a name of their own; more are thin and grey behind them."""
MAX_GROUPS = 24
MAX_BANDS = 4
"""More intervals over each other can't be told apart."""
_WORDS: dict[Axis, str] = {
    "parts": "part", "calls": "tool call", "tokens": "tokens used", "cost": "cost", "time": "elapsed time",
}  # fmt: skip


def share_of(point: Point, each: Compared, measure: Measure) -> float:
    """The share of what passed of all that the trajectory's environment has."""
    if measure == "paths":
        return len(point.passed_paths) / max(each.progress.total_paths, 1)
    return point.counts.passed / max(each.progress.total_tests, 1)


def curves_chart(trajectories: Sequence[Compared], axis: Axis, measure: Measure, image_format: ImageFormat) -> bytes:
    """The curves of trajectories in one chart."""
    return rendered(lambda: _curves(trajectories, axis, measure), image_format)


def _curves(trajectories: Sequence[Compared], axis: Axis, measure: Measure) -> Figure:
    drawn = [each for each in trajectories if each.progress.points and each.progress.end.on(axis) is not None]
    ranked = sorted(drawn, key=lambda each: -share_of(each.progress.points[-1], each, measure))
    named = ranked[:MAX_NAMED]
    height_in = max(5.9, 1.4 + 0.4 * len(named))
    figure = new_figure(11.0, height_in)
    what = "tests" if measure == "tests" else "test paths"
    headline(figure, f"Passed {what} by {_WORDS[axis]}", _caption(trajectories, axis))
    axes = figure.add_axes((0.078, 0.68 / height_in, 0.635, 1 - 1.68 / height_in))
    scale = scale_of(axis, max((each.progress.end.on(axis) or 0 for each in drawn), default=0))
    _share_axis(axes, f"share of passed {what}")
    axes.axhline(1, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    numbers = {each.name: number for number, each in enumerate(each for each in drawn if each in named)}
    lines = {each.name: _draw(axes, each, axis, measure, scale, _line_style(numbers.get(each.name))) for each in drawn}
    longest = max((each.progress.end.on(axis) or 0 for each in drawn), default=0) * scale.factor
    axes.set_xlim(0, longest * 1.02 or 1)
    scale.apply(axes)
    if not drawn:
        say(axes, "No evaluation" if not any(each.progress.points for each in trajectories) else f"No {axis} is known")
    _legend(axes, [(lines[each.name], _legend_words(each, measure)) for each in named], len(drawn) - len(named))
    return figure


def _caption(trajectories: Sequence[Compared], axis: Axis) -> str:
    if PARTS_DIFFER in notes_on(trajectories) and axis in ("parts", "calls"):
        return "agents cut their work into parts differently: across agents, compare tokens, cost or time"
    tasks = sorted({each.trajectory.task for each in trajectories})
    return f"{len(trajectories)} trajectories on {', '.join(tasks)}"


def _line_style(number: int | None) -> dict[str, Any]:
    if number is None:
        return {"color": "#B9B9B9", "linewidth": 0.8, "zorder": 1.5}
    # Neighbours differ in colour and in dashes: told apart without colour too.
    dashes = DASHES[(number + 2 * (number // len(SERIES))) % len(DASHES)]
    return {"color": SERIES[number % len(SERIES)], "linewidth": 2, "linestyle": dashes}


def _draw(axes: Axes, each: Compared, axis: Axis, measure: Measure, scale: Scale, style: dict[str, Any]) -> Any:
    xs = [(point.at.on(axis) or 0) * scale.factor for point in each.progress.points]
    ys = [share_of(point, each, measure) for point in each.progress.points]
    xs.append(max(xs[-1], (each.progress.end.on(axis) or 0) * scale.factor))
    ys.append(ys[-1])
    (line,) = axes.step(xs, ys, where="post", **style)
    marker = {"solved": "o", "in progress": ">"}.get(each.progress.end_reason, "s")
    axes.plot(xs[-1:], ys[-1:], marker, color=style["color"], markersize=5 if style["linewidth"] > 1 else 2.5,
              clip_on=False, zorder=5)  # fmt: skip
    return line


def _legend_words(each: Compared, measure: Measure) -> str:
    assert each.final is not None
    passed, total = each.final.counts.passed, each.progress.total_tests
    if measure == "paths":
        passed, total = len(each.final.passed_paths), each.progress.total_paths
    return f"{label(each.name, 34)}\n{passed:,} of {total:,}, {each.progress.end_reason.replace('_', ' ')}"


def _legend(axes: Axes, entries: Sequence[tuple[Any, str]], more: int) -> None:
    if not entries:
        return
    title = f"and {more} more in grey" if more else None
    legend = axes.legend(
        [handle for handle, _ in entries], [words for _, words in entries], loc="upper left",
        bbox_to_anchor=(1.02, 1.02), frameon=False, fontsize=8.3, handlelength=2.6, labelspacing=0.75, title=title,
        title_fontsize=8.3, alignment="left",
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_linespacing(1.35)


def _share_axis(axes: Axes, title: str) -> None:
    from matplotlib.ticker import FixedLocator, PercentFormatter

    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1.0]))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_ylim(0, 1.06)
    axes.set_ylabel(title)


# -- groups ----------------------------------------------------------------------------------------


def groups_chart(groups: Sequence[Group], by: Sequence[str], image_format: ImageFormat) -> bytes:
    """Solve rates with their intervals, and pass@k where there were several trials."""
    return rendered(lambda: _groups(groups, by), image_format)


def _groups(groups: Sequence[Group], by: Sequence[str]) -> Figure:
    shown = [group for group in groups if group.solve_rate is not None][:MAX_GROUPS]
    has_ks = any(len(group.pass_at) > 1 for group in shown)
    height_in = max(3.2, 1.75 + 0.42 * len(shown))
    if has_ks:
        height_in = max(height_in, 4.6)
    figure = new_figure(11.0, height_in)
    words = f"{sum(group.counted for group in groups)} trajectories by {', '.join(by)}; whiskers hold 95 %"
    if len(groups) > len(shown):
        words += f"; {len(groups) - len(shown)} more groups are in the table"
    headline(figure, "Solve rate" + (" and pass@k" if has_ks else ""), words)
    top, bottom = 1 - 0.95 / height_in, 0.65 / height_in
    axes = figure.add_axes((0.22, bottom, 0.33 if has_ks else 0.68, top - bottom))
    _rates(axes, shown)
    if has_ks:
        _pass_at(figure.add_axes((0.665, bottom, 0.31, top - bottom)), shown)
    return figure


def _rates(axes: Axes, groups: Sequence[Group]) -> None:
    from matplotlib.ticker import PercentFormatter

    for number, group in enumerate(groups):
        rate = group.solve_rate
        assert rate is not None
        color = SERIES[number % len(SERIES)]
        axes.plot([rate.low, rate.high], [number, number], color=color, linewidth=2.2, solid_capstyle="butt")
        axes.plot([rate.low, rate.high], [number, number], "|", color=color, markersize=9, markeredgewidth=2)
        axes.plot([rate.value], [number], "o", color=color, markersize=8, zorder=5, clip_on=False)
        axes.annotate(f"{group.solved}/{group.counted}", (rate.value, number), xytext=(0, 8), ha="center",
                      textcoords="offset points", fontsize=8.5, annotation_clip=False)  # fmt: skip
    axes.set_yticks(range(len(groups)), [label(group.name, 30) for group in groups])
    axes.set_ylim(max(len(groups), 1) - 0.4, -0.7)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_xlabel("solved trajectories")
    axes.grid(visible=True, axis="x", color=PALE)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, pad=8)
    if not groups:
        say(axes, "No trajectory that counts")


def _pass_at(axes: Axes, groups: Sequence[Group]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    ks: set[int] = set()
    for number, group in enumerate(groups):
        color = SERIES[number % len(SERIES)]
        xs = [found.k for found in group.pass_at]
        ks |= set(xs)
        if len(groups) <= MAX_BANDS:
            lows = [found.estimate.low for found in group.pass_at]
            highs = [found.estimate.high for found in group.pass_at]
            axes.fill_between(xs, lows, highs, color=color, alpha=0.10, linewidth=0)
        axes.plot(xs, [found.estimate.value for found in group.pass_at], "o", color=color,
                  linestyle=DASHES[number % len(DASHES)], linewidth=1.8, markersize=4.5, clip_on=False)  # fmt: skip
    _share_axis(axes, "pass@k")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ks)))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlabel("k trials of a task")
