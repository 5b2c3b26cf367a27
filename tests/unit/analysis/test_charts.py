"""Charts, as far as a program can judge them: their curves, words and marks, and that nothing leaks."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest
from PIL import Image

from envoi_trace_core.analysis import charts
from envoi_trace_core.analysis.charts import MAX_PANELS, panels_of, trajectory_charts
from envoi_trace_core.analysis.curves import progress_of
from envoi_trace_core.analysis.figures import compact, drawing, scale_of


def figure_of(trace, axis="parts"):
    with drawing():
        figure = charts._overall(trace, progress_of(trace), axis)
        figure.canvas.draw()
    return figure


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [text.get_text() for text in (*axes.texts, *axes.get_yticklabels(), axes.xaxis.label)]
    return found


def test_the_curve_holds_between_evaluations(typical):
    axes = figure_of(typical.trace).axes[0]
    curve = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert list(curve.get_xdata()) == [2, 5, 6, 8]
    assert list(curve.get_ydata()) == [7, 11, 8, 8]


def test_marks_and_the_total_are_told(typical):
    found = texts(figure_of(typical.trace))
    assert "20" in found  # the total is a tick
    for word in ("checkpoints (5)", "build failed (1)", "evaluation error (1)", "new session", "part limit", "part"):
        assert word in found, word


def test_time_is_told_in_a_unit_that_fits(typical):
    assert "elapsed time (seconds)" in texts(figure_of(typical.trace, "time"))
    assert [scale_of("time", seconds).title for seconds in (100, 3000, 50_000, 500_000)] == [
        "elapsed time (seconds)", "elapsed time (minutes)", "elapsed time (hours)", "elapsed time (days)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda maker: None, "No evaluation: the trajectory has no part"),
        (lambda maker: maker.part(), "No evaluation: no part changed a file"),
        (lambda maker: maker.part(commits=True), "No evaluation: no commit was tested"),
        (lambda maker: maker.evaluated(status="skipped"), "No evaluation: no commit was tested"),
        (lambda maker: maker.evaluated(status="build_failed"), "No evaluation ran to its end: 1 failed (marked below)"),
    ],
)
def test_a_trace_without_an_evaluation_says_so(make, build, words):
    maker = make().begin()
    build(maker)
    trace = maker.end().trace
    assert words in texts(figure_of(trace))
    assert len(trajectory_charts(trace, progress_of(trace), "png")) == 4


def test_pngs_are_of_print_quality(typical):
    files = trajectory_charts(typical.trace, progress_of(typical.trace), "png")
    assert list(files) == ["passed_by_part.png", "suites_by_part.png", "passed_by_time.png", "suites_by_time.png"]
    for content in files.values():
        image = Image.open(io.BytesIO(content))
        assert image.width == 3000
        assert round(image.info["dpi"][0]) == 300


def test_svgs_are_well_formed_and_the_same_each_time(typical):
    first = trajectory_charts(typical.trace, progress_of(typical.trace), "svg")
    assert first == trajectory_charts(typical.trace, progress_of(typical.trace), "svg")
    for content in first.values():
        assert ET.fromstring(content).tag.endswith("svg")


def test_names_that_matplotlib_or_a_terminal_would_obey_are_only_text(make):
    odd = ("$\\frac{$/a", "日本語🎉/a", "<script>/a", "x" * 300 + "/a", "\x1b[31m\n/a")
    maker = make(paths=odd).begin(model="$x^", task="</svg><script>alert(1)</script>")
    trace = maker.evaluated({odd[0]: 5}).end().trace
    for content in trajectory_charts(trace, progress_of(trace), "svg").values():
        assert b"<script" not in content
        ET.fromstring(content)


def test_many_suites_stay_legible():
    few = {f"s{number}": number for number in range(MAX_PANELS)}
    assert list(panels_of(few)) == list(few)
    many = {f"s{number:02}": number for number in range(40)}
    panels = panels_of(many)
    assert len(panels) == MAX_PANELS
    assert list(panels)[-1] == "17 smaller suites"
    assert panels["17 smaller suites"] == tuple(f"s{number:02}" for number in range(17))


def test_nothing_of_matplotlibs_global_state_is_changed(typical):
    before = dict(mpl.rcParams)
    trajectory_charts(typical.trace, progress_of(typical.trace), "svg")
    assert dict(mpl.rcParams) == before


def test_numbers_of_ticks_are_short():
    assert [compact(value) for value in (0, 0.25, 999, 1500, 20_000, 3_200_000, 2e9)] == [
        "0", "0.25", "999", "1,500", "20k", "3.2M", "2G",
    ]  # fmt: skip
