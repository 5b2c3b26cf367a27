"""What all charts share: style, palette, axes, and the way to bytes. matplotlib without pyplot and its global state."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import attrs

from envoi_trace_core.cli.output import cut, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ImageFormat = Literal["png", "svg"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("png", "svg")
PRINT_DPI = 300

# Okabe and Ito's palette, told apart by people of any colour vision: https://jfly.uni-koeln.de/color/
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, INK = "#AA4499", "#56B4E9", "#1A1A1A"
GREY, PALE = "#6B6B6B", "#E4E4E4"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.5, 1.5, 1.5)))

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "envoi-trace",
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The style of the charts, whatever the user's matplotlibrc says; set back in the end."""
    import matplotlib as mpl

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells when it makes its cache of fonts
    with mpl.rc_context(), warnings.catch_warnings():
        # A name may hold any character; one that the font lacks shows as a box.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from font")
        settings: Any = mpl.rcParams
        settings.update({name: value for name, value in mpl.rcParamsDefault.items() if "backend" not in name})
        settings.update(_STYLE)
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that no global state knows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in))


def image_bytes(figure: Figure, image_format: ImageFormat) -> bytes:
    """The figure as a file; the same bytes for the same figure."""
    buffer = io.BytesIO()
    metadata = {"Software": "envoi-trace"} if image_format == "png" else {"Date": None, "Creator": "envoi-trace"}
    figure.savefig(buffer, format=image_format, dpi=PRINT_DPI, metadata=metadata)
    return buffer.getvalue()


def headline(figure: Figure, title: str, subtitle: str, *, top_in: float = 0.3) -> None:
    """A title and a line below it, at the left edge of the figure."""
    height_in = figure.get_figheight()
    left = 0.32 / figure.get_figwidth()
    figure.text(left, 1 - top_in / height_in, label(title, 100), fontsize=14, fontweight="bold", va="center")
    figure.text(left, 1 - (top_in + 0.27) / height_in, label(subtitle, 160), fontsize=9.5, color=GREY, va="center")


def label(text: str, limit: int) -> str:
    """An untrusted text on one line, cut to a number of columns."""
    return cut(printable(text), limit)


@attrs.frozen(kw_only=True)
class Scale:
    """How positions of one kind are shown on an axis."""

    title: str
    factor: float = 1.0
    """What a position is multiplied with."""
    is_whole: bool = False
    prefix: str = ""

    def apply(self, axes: Axes, *, show_title: bool = True) -> None:
        """Title and tick labels of the horizontal axis."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        if show_title:
            axes.set_xlabel(self.title)
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=self.is_whole, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: self.prefix + compact(value)))


def scale_of(axis: str, longest: float) -> Scale:
    """How to show positions up to `longest` (parts, calls, tokens, US dollars or seconds) on an axis."""
    match axis:
        case "time":
            for limit_s, unit, length_s in ((120, "seconds", 1), (7200, "minutes", 60), (259200, "hours", 3600)):
                if longest <= limit_s:
                    return Scale(title=f"elapsed time ({unit})", factor=1 / length_s)
            return Scale(title="elapsed time (days)", factor=1 / 86400)
        case "cost":
            return Scale(title="cost (US dollars)", prefix="$")
        case "calls":
            return Scale(title="tool calls", is_whole=True)
        case "tokens":
            return Scale(title="tokens", is_whole=True)
        case _:
            return Scale(title="part", is_whole=True)


def compact(value: float) -> str:
    """A number for a tick: `0.25`, `1,500`, `20k`, `3.2M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def count_axis(axes: Axes, total: int, *, ticks: int = 5) -> None:
    """A vertical axis of counts from 0 to a total that is one of its ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    top = max(total, 1)
    nice = MaxNLocator(nbins=ticks, integer=True).tick_values(0, top)
    kept = [float(tick) for tick in nice if 0 <= tick < top - 0.5 * top / ticks]
    axes.yaxis.set_major_locator(FixedLocator([*kept, float(top)] if total else [0.0]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(0, top * 1.06)


def say(axes: Axes, text: str) -> None:
    """Words in the middle of a chart that has nothing else to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=GREY)


def rendered(make: Callable[[], Figure], image_format: ImageFormat) -> bytes:
    """Make a figure in the charts' style, as a file."""
    with drawing():
        return image_bytes(make(), image_format)
