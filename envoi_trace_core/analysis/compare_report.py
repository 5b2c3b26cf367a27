"""`report.html` of a comparison: one page that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from envoi_trace_core.analysis.compare import Compared, comparison_json
from envoi_trace_core.analysis.compare_charts import Measure
from envoi_trace_core.analysis.curves import Axis
from envoi_trace_core.analysis.groups import NOT_THE_AGENTS
from envoi_trace_core.analysis.report_page import DataBlock, page_bytes

MAX_POINTS = 2_000
"""Of one curve in the page; of more, evenly spaced ones and the last are kept."""

_BODY = """
<section id="curves"><div class="bar"><h2>Passed</h2></div><div class="chart" id="chart"></div></section>
<section><div class="bar"><h2>{what}</h2></div><div class="scroll" id="table"></div>
<ul class="note" id="notes"></ul></section>
<section id="reached-section"><div class="bar"><h2>To reach a share of the test paths on one commit</h2></div>
<div class="scroll" id="reached"></div></section>
"""


def comparison_report(trajectories: Sequence[Compared], axis: Axis, measure: Measure) -> bytes:
    """The page for single trajectories."""
    data = comparison_json(trajectories)
    for each, shown in zip(trajectories, data["trajectories"], strict=True):
        shown["points"] = _points(each)
    data |= {"axis": axis, "measure": measure}
    data["notes"].append(
        "paths lost: test paths that passed on one commit and failed on a later one; tests lost: tests that passed on "
        "one evaluated commit and failed on the next, added up; a build that failed counts as neither"
    )
    tasks = ", ".join(sorted({each.trajectory.task for each in trajectories}))
    return _page(f"{len(trajectories)} trajectories compared", f"on {tasks}", "Trajectories", data)


def groups_report(data: Mapping[str, Any], title: str) -> bytes:
    """The page for groups."""
    told = [
        "intervals hold 95 %",
        "solve rate: of the trajectories that count, those where all paths passed on one commit; Wilson's interval",
        f"left out: ended as {', '.join(NOT_THE_AGENTS)}, which says nothing of the agent",
        "pass@k: the unbiased estimate of Chen et al. 2021, up to the trials that all tasks of a group have",
        "its interval: exact for one task (Clopper and Pearson), else of 2,000 bootstrap samples of tasks and trials",
    ]
    return _page(title, f"by {', '.join(data['by'])}", "Groups", {**data, "notes": told})


def _page(title: str, subtitle: str, what: str, data: Mapping[str, Any]) -> bytes:
    return page_bytes(
        title=title,
        subtitle=subtitle,
        body=_BODY.format(what=what),
        styles=("base.css",),
        scripts=("base.js", "chart.js", "compare.js"),
        blocks=[DataBlock(value=data, element_id="index")],
    )


def _points(each: Compared) -> list[dict[str, Any]]:
    points = each.progress.points
    step = -(-len(points) // MAX_POINTS) or 1
    kept = [*points[:-1:step], points[-1]] if points else []
    return [
        {
            **attrs.asdict(point.at),
            "commit": point.commit,
            "passed": point.counts.passed,
            "passed_paths": len(point.passed_paths),
        }
        for point in kept
    ]
