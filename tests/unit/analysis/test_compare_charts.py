"""Charts and pages of comparisons."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from envoi_trace_core.analysis import compare_charts
from envoi_trace_core.analysis.compare import compared, digest
from envoi_trace_core.analysis.compare_charts import MAX_NAMED, curves_chart, groups_chart
from envoi_trace_core.analysis.compare_report import MAX_POINTS, comparison_report, groups_report
from envoi_trace_core.analysis.figures import drawing
from envoi_trace_core.analysis.groups import groups_json, groups_of

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


def runner(make, agent, passed, *, cost_usd=0.5, **fields):
    maker = make(f"t-{agent}"[:60]).begin(agent=agent, **fields)
    for count in passed:
        maker.part(tokens=100, cost_usd=cost_usd)
        maker.evaluated({"sort/small": count, "sort/large": count}, tokens=50)
    return maker.end("part_limit")


@pytest.fixture
def three(make):
    makers = [runner(make, "codex", [1, 3, 5]), runner(make, "opencode", [2, 4]), runner(make, "script", [5])]
    return compared([digest(maker.trace) for maker in makers])


def figure_of(trajectories, axis="parts", measure="tests"):
    with drawing():
        figure = compare_charts._curves(trajectories, axis, measure)
        figure.canvas.draw()
    return figure


def curves_of(figure):
    return [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]


@pytest.mark.parametrize(
    ("axis", "xs"),
    [("parts", [2, 4, 6, 6]), ("calls", [2, 4, 6, 6]), ("tokens", [150, 300, 450, 450]), ("cost", [0.5, 1, 1.5, 1.5]),
     ("time", [20, 40, 60, 65])],
)  # fmt: skip
def test_the_axis_is_a_choice(three, axis, xs):
    first = curves_of(figure_of(three, axis))[0]
    assert list(first.get_xdata()) == xs
    assert list(first.get_ydata()) == [0.1, 0.3, 0.5, 0.5]


def test_paths_are_another_measure(three):
    assert list(curves_of(figure_of(three, measure="paths"))[0].get_ydata()) == [0, 0, 0.5, 0.5]


def test_curves_differ_without_colour_too(three):
    styles = {(line.get_linestyle(), line.get_color()) for line in curves_of(figure_of(three))}
    assert len(styles) == 3
    assert len({str(line._dash_pattern) for line in curves_of(figure_of(three))}) == 3


def test_it_says_that_parts_differ(three):
    words = [text.get_text() for text in figure_of(three, "parts").texts]
    assert any("agents cut their work into parts differently" in text for text in words)
    words = [text.get_text() for text in figure_of(three, "tokens").texts]
    assert not any("differently" in text for text in words)


def test_many_curves_stay_legible(make):
    trajectories = compared([digest(runner(make, f"agent{number}", [number % 6]).trace) for number in range(20)])
    figure = figure_of(trajectories)
    legend = figure.axes[0].get_legend()
    assert len(legend.get_texts()) == MAX_NAMED
    assert legend.get_title().get_text() == "and 6 more in grey"


def test_no_two_named_curves_look_alike(make):
    trajectories = compared([digest(runner(make, f"agent{number}", [1]).trace) for number in range(MAX_NAMED)])
    looks = [(line.get_color(), str(line._dash_pattern)) for line in curves_of(figure_of(trajectories))]
    assert len(set(looks)) == MAX_NAMED


def test_the_legend_stays_within_the_figure(make):
    figure = figure_of(compared([digest(runner(make, f"agent{number}", [1]).trace) for number in range(20)]))
    box = figure.axes[0].get_legend().get_window_extent()
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_trajectories_without_evaluations_are_told(make):
    makers = [make("a").begin(), make("b").begin(agent="opencode")]
    figure = figure_of(compared([digest(maker.trace) for maker in makers]))
    assert "No evaluation" in [text.get_text() for text in figure.axes[0].texts]


def test_files(three):
    for image_format in ("png", "svg"):
        content = curves_chart(three, "parts", "tests", image_format)
        if image_format == "png":
            assert Image.open(io.BytesIO(content)).width == 3300
        else:
            ET.fromstring(content)


# -- groups ----------------------------------------------------------------------------------------


@pytest.fixture
def groups(make):
    headers = []
    for agent, passed in (("codex", 5), (EVIL, 1)):
        for trial in range(3):
            maker = make(f"{agent}{trial}"[:50]).begin(agent=agent, trial=trial)
            maker.evaluated(dict.fromkeys(maker.paths, passed))
            headers.append(maker.end("solved" if passed == 5 else "part_limit").trace.header)
    return groups_of(headers, ("agent",))


def test_groups_in_a_chart(groups):
    ET.fromstring(groups_chart(groups, ("agent",), "svg"))
    with drawing():
        figure = compare_charts._groups(groups, ("agent",))
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words == ["3/3", "0/3"]
    assert len(figure.axes) == 2  # pass@k too


def test_no_group_that_counts(make):
    header = make("a").begin().trace.header
    with drawing():
        figure = compare_charts._groups(groups_of([header], ("agent",)), ("agent",))
    assert [text.get_text() for text in figure.axes[0].texts] == ["No trajectory that counts"]


# -- pages -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_of_trajectories(browser, make, tmp_path):
    makers = [runner(make, "codex", [1, 3, 5], task=EVIL), runner(make, EVIL, [2, 4], model=EVIL)]
    trajectories = compared([digest(maker.trace) for maker in makers])
    path = tmp_path / "report.html"
    path.write_bytes(comparison_report(trajectories, "tokens", "tests"))
    browser.open(path)
    assert browser.js("document.querySelectorAll('#chart .curve').length") == 2
    assert browser.js("document.querySelector('[data-value=tokens]').getAttribute('aria-pressed')") == "true"
    for axis in ("parts", "calls", "cost", "time"):
        browser.js(f"document.querySelector('[data-value={axis}]').click()")
    browser.js("document.querySelector('[data-value=paths]').click()")
    browser.js("document.querySelector('#table tbody button').click()")
    assert browser.js("document.querySelectorAll('#chart .curve').length") == 1
    text = browser.js("document.body.textContent")
    for words in ("agents cut their work into parts differently", "never", "75 %", "tests lost", EVIL):
        assert words in text
    assert browser.js("typeof window.hacked") == "undefined"
    assert browser.complaints() == []


@pytest.mark.slow
def test_the_page_of_groups(browser, groups, tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(groups_report(groups_json(groups, ("agent",)), EVIL))
    browser.open(path)
    text = browser.js("document.getElementById('table').textContent")
    for words in ("3 of 3", "100 % (44 %", "pass@3", EVIL):
        assert words in text
    assert browser.js("typeof window.hacked") == "undefined"
    assert browser.complaints() == []


def test_a_long_curve_is_thinned_in_the_page(make):
    maker = make().begin()
    for _ in range(MAX_POINTS + 500):
        maker.evaluated({})
    from envoi_trace_core.analysis.compare_report import _points

    (one,) = compared([digest(maker.trace)])
    points = _points(one)
    assert MAX_POINTS / 2 < len(points) <= MAX_POINTS + 1
    assert points[-1]["part"] == MAX_POINTS + 500
