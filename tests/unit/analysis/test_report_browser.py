"""`report.html` in a real Chromium: it runs, a click shows a part, large ones stay usable, nothing of a trace runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from envoi_trace_core.analysis.curves import progress_of
from envoi_trace_core.analysis.report import report_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>${window.hacked = 3}"
NODES = "document.querySelectorAll('*').length"


def write_report(maker, folder: Path) -> Path:
    trace = maker.trace
    path = folder / "report.html"
    path.write_bytes(report_bytes(trace, progress_of(trace)))
    return path


def enter(browser, element_id: str, value: str, event: str) -> None:
    """As a user does who types or chooses."""
    browser.js(
        f"(() => {{ const field = document.getElementById('{element_id}'); field.value = '{value}';"
        f" field.dispatchEvent(new Event('{event}')); }})()"
    )


def point_of(browser, number: int) -> tuple[float, float]:
    """Where a point of the curve is on the screen."""
    browser.js("document.getElementById('chart').scrollIntoView({block: 'center'})")
    found = browser.js(
        "(() => { const svg = document.querySelector('#chart svg');"
        f" const word = svg.querySelector('.dots').getAttribute('d').split('M')[{number + 1}].split(/[ h]/);"
        " const point = new DOMPoint(+word[0], +word[1]).matrixTransform(svg.getScreenCTM());"
        " return [point.x, point.y]; })()"
    )
    return found[0], found[1]


def test_a_click_on_a_point_shows_its_part(browser, typical, tmp_path):
    browser.open(write_report(typical, tmp_path))
    browser.mouse(*point_of(browser, 1))
    browser.wait("!document.querySelector('.tip').hidden")
    tip = browser.js("document.querySelector('.tip').innerText")
    for words in ("part 5", "00000000", "11 of 20 tests", "2 of 4 test paths", "250 tokens", "$0.75"):
        assert words in tip
    browser.mouse(*point_of(browser, 1), click=True)
    browser.wait("document.getElementById('detail').dataset.part === '5'")
    detail = browser.js("document.getElementById('detail').innerText")
    for words in (
        "part 5",
        "output of part 5",
        "command: ls",
        "a.py",
        "+newer",
        "evaluation of its commit",
        "sort/large",
    ):
        assert words in detail
    assert browser.js("[...document.querySelectorAll('.patch .plus')].map((line) => line.textContent)") == [
        "+new", "+newer",
    ]  # fmt: skip
    assert browser.js("location.hash") == "#part=5"
    assert browser.js("document.querySelector('.row.picked').dataset.part") == "5"
    assert browser.complaints() == []


def test_the_address_names_a_part(browser, typical, tmp_path):
    browser.open(write_report(typical, tmp_path), "#part=4")
    assert browser.js("document.getElementById('detail').dataset.part") == "4"
    browser.js("location.hash = '#part=7'")
    browser.wait("document.getElementById('detail').dataset.part === '7'")
    assert "the runtime died" in browser.js("document.getElementById('detail').innerText")
    assert browser.complaints() == []


def test_axes_and_suites(browser, typical, tmp_path):
    browser.open(write_report(typical, tmp_path))
    assert browser.js("[...document.querySelectorAll('#curves [data-value]')].map((one) => one.dataset.value)") == [
        "overall", "suites", "parts", "time", "calls", "tokens", "cost",
    ]  # fmt: skip
    for axis, title in (("time", "elapsed time"), ("cost", "cost"), ("tokens", "tokens"), ("calls", "tool calls")):
        browser.js(f"document.querySelector('[data-value={axis}]').click()")
        assert title in browser.js("document.querySelector('#chart svg').textContent")
    browser.js("document.querySelector('[data-value=suites]').click()")
    assert browser.js("[...document.querySelectorAll('.panel-title')].map((one) => one.textContent)") == [
        "sort5/10", "format3/10",
    ]  # fmt: skip
    chart = browser.js("document.getElementById('curves').textContent")
    assert "new session" not in chart  # panels are too small for words
    assert browser.complaints() == []


def test_marks_are_told(browser, typical, tmp_path):
    browser.open(write_report(typical, tmp_path))
    chart = browser.js("document.querySelector('#chart svg').textContent")
    for words in ("checkpoints (5)", "build failed (1)", "evaluation error (1)", "new session", "part limit", "20"):
        assert words in chart


@pytest.mark.parametrize(("scheme", "page"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 26)")])
def test_dark_and_light(browser, typical, tmp_path, scheme, page):
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(write_report(typical, tmp_path))
    color = "getComputedStyle(document.documentElement).backgroundColor"
    assert browser.js(color) == page
    browser.js("document.querySelector('.theme').click()")
    assert browser.js(color) != page
    browser.call("Emulation.setEmulatedMedia", features=[])


def test_nothing_of_a_trace_runs(browser, make, tmp_path):
    maker = make(trajectory_id=EVIL, paths=(EVIL + "/a", "b/c")).begin(
        agent=EVIL, model=EVIL, task=EVIL, environment=EVIL, sandbox=EVIL, agent_version=EVIL
    )
    maker.begin_session(EVIL)
    maker.evaluated(
        {"b/c": 5}, summary=EVIL, content=EVIL, tool_name=EVIL, tool_input=EVIL, tool_output=EVIL, tool_error=EVIL,
        tool_status=EVIL, patch="+" + EVIL, session_id=EVIL,
    )  # fmt: skip
    maker.evaluated(status="build_failed", error=EVIL)
    path = write_report(maker.end("agent_error", EVIL), tmp_path)
    assert b"<script>window.hacked" not in path.read_bytes()
    browser.open(path, "#part=1")
    browser.js("document.querySelector('[data-value=suites]').click()")
    browser.js("document.querySelector('[data-value=overall]').click()")
    browser.mouse(*point_of(browser, 0))
    assert browser.js("typeof window.hacked") == "undefined"
    assert browser.js("document.querySelectorAll('img').length") == 0
    detail = browser.js("document.getElementById('detail').textContent")
    assert detail.count(EVIL) >= 6  # as text
    assert EVIL in browser.js("document.body.textContent")
    assert browser.complaints() == []


def test_even_a_hole_would_not_be_used(browser, typical, tmp_path):
    """The page's policy runs our script and no other, and fetches nothing."""
    browser.open(write_report(typical, tmp_path))
    browser.js(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x\" onerror=\"hacked=1\">')"
    )
    browser.js("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked=1'}))")
    browser.wait("true")
    assert browser.js("typeof window.hacked") == "undefined"
    assert "Content Security Policy" in str(browser.complaints())


@pytest.mark.parametrize("reason", ["agent_error", None])
def test_a_trace_without_parts_says_so(browser, make, tmp_path, reason):
    maker = make().begin()
    if reason:
        maker.end(reason, "no key")
    browser.open(write_report(maker, tmp_path))
    text = browser.js("document.body.textContent")
    assert "No evaluation: the trajectory has no part" in text
    assert ("no key" in text) == bool(reason)
    assert browser.complaints() == []


def test_5000_parts_stay_usable(browser, make, tmp_path):
    maker = make().begin()
    for number in range(1, 5001):
        if number % 10 == 0:
            maker.evaluated({"sort/small": 5, "sort/large": number % 5}, tokens=10)
        elif number % 3 == 0:
            maker.part(part_type="reasoning", tool_name=None, tool_input=None, content="thinking " * 60)
        else:
            maker.part(tool_output="a needle in the hay" if number == 4321 else "hay " * 400)
    path = write_report(maker.end(), tmp_path)
    assert path.stat().st_size < 20_000_000
    began_at = time.monotonic()
    browser.open(path)
    assert time.monotonic() - began_at < 55
    assert browser.js("document.documentElement.dataset.shown") == "5000"
    assert browser.js(NODES) < 1500

    enter(browser, "only", "commits", "change")
    assert browser.js("document.documentElement.dataset.shown") == "500"
    browser.js("document.querySelector('[data-kind=reasoning]').click()")
    assert browser.js("document.documentElement.dataset.shown") == "0"
    browser.js("[...document.querySelectorAll('#filters button')].at(-1).click()")
    assert browser.js("document.documentElement.dataset.shown") == "5000"

    enter(browser, "search", "NEEDLE in", "input")
    browser.wait("document.documentElement.dataset.searched === 'needle in'")
    assert browser.js("document.documentElement.dataset.shown") == "1"
    assert browser.js("document.querySelector('.row[data-part]').dataset.part") == "4321"
    browser.js("[...document.querySelectorAll('#filters button')].at(-1).click()")

    enter(browser, "search", "a.py", "input")  # a changed file
    browser.wait("document.documentElement.dataset.searched === 'a.py'")
    assert browser.js("document.documentElement.dataset.shown") == "500"
    browser.js("[...document.querySelectorAll('#filters button')].at(-1).click()")

    browser.js("document.getElementById('list').scrollTop = 1e9")
    browser.wait("document.querySelector('[data-part=\"5000\"]')")
    browser.js("document.querySelector('[data-part=\"5000\"]').click()")
    browser.wait("document.getElementById('detail').dataset.part === '5000'")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="k")
    browser.wait("document.getElementById('detail').dataset.part === '4999'")
    assert browser.js(NODES) < 1500
    assert browser.complaints() == []
