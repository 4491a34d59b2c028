"""A number over time as SVG, without colours: the site's style sheet gives them, so both schemes and print fit.

The library lays out the axes and says where a value stands; the points themselves are drawn here, since thousands of
plots are made at a build and its own series cost several times as much.
"""

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pygal
from markupsafe import Markup
from pygal.etree import etree as library_tree
from pygal.style import Style

from runner.pages.proof import Band, Trend
from runner.pages.text import plain
from runner.units import format_value

# pygal hooks its plug-ins into the import system by an interface that Python has dropped; none is used here.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]
# It takes lxml where there is one; its elements do not go together with those made here.
library_tree.to_etree()

WIDTH, HEIGHT = 720, 220
_TICKS = 4
# Within so many days the hour matters.
_DAYS = timedelta(days=4)
# Only so that the library has something to work with: its style sheet is left out.
_NO_STYLE = Style(colors=("#000000",) * 8, label_font_size=15, major_label_font_size=15)
_Place = Callable[[tuple[float, float]], tuple[float, float]]


def trend_plot(trend: Trend, name: str) -> Markup:
    """The plot of a trend of two points or more.

    Args:
        trend: what to draw; its words become the text alternative.
        name: the element's id, unique on its page.
    """
    first, last = trend.first.timestamp(), trend.last.timestamp()
    low, high = _range(trend)
    pattern = "%m-%d %H:%M" if trend.last - trend.first < _DAYS else "%Y-%m-%d"
    chart = pygal.XY(
        width=WIDTH,
        height=HEIGHT,
        margin=6,
        margin_right=52,
        css=(),
        js=(),
        style=_NO_STYLE,
        show_legend=False,
        range=(low, high),
        xrange=(first, last),
        min_scale=3,
        max_scale=6,
        x_labels=[first + (last - first) * step / _TICKS for step in range(_TICKS + 1)],
        x_value_formatter=lambda moment: datetime.fromtimestamp(moment, UTC).strftime(pattern),
        value_formatter=lambda value: format_value(value, trend.unit),
    )
    chart.add("corners", [(first, low), (last, high)], show_dots=False)
    svg = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "class": "rb-plot",
            "role": "img",
            "id": name,
            "aria-label": plain(" ".join(trend.words.split())),
        },
    )

    def draw(drawn: ET.Element) -> ET.Element:
        # Here alone the library knows where a value stands.
        margin = chart.margin_box
        plot = ET.SubElement(svg, "g", {"transform": f"translate({margin.left}, {margin.top})"})
        plot.extend(_axes(drawn))
        plot.extend(_series(trend, low, high, pattern, chart.view))
        return svg

    chart.add_xml_filter(draw)
    # One line, so that no Markdown syntax finds a line to begin on.
    text = ET.tostring(chart.render_tree(), encoding="unicode").replace("\n", " ")
    return Markup(text)  # noqa: S704 - drawn here, text escaped


def _range(trend: Trend) -> tuple[float, float]:
    """Least and greatest value that the plot has room for: samples and bounds, and a margin around them."""
    band = trend.band or Band(None, None, "")
    bounds = [bound for bound in (band.low, band.high) if bound is not None]
    low = min([*(point.low for point in trend.points), *bounds])
    high = max([*(point.high for point in trend.points), *bounds])
    margin = (high - low or abs(high) or 1.0) * 0.06
    return (low - margin if low - margin > 0 or low < 0 else 0.0), high + margin


def _axes(drawn: ET.Element) -> Iterable[ET.Element]:
    """The axes that the library drew, without its tooltips."""
    for axis in drawn.iter("g"):
        if "axis" in axis.get("class", "").split():
            for guide in axis.iter("g"):
                for title in guide.findall("title"):
                    guide.remove(title)
            yield axis


def _series(trend: Trend, low: float, high: float, pattern: str, place: _Place) -> Iterable[ET.Element]:
    times = [point.when.timestamp() for point in trend.points]

    def at(time: float, value: float) -> str:
        x, y = place((time, value))
        return f"{x:.1f} {y:.1f}"

    def line(name: str, *strokes: str) -> ET.Element:
        group = ET.Element("g", {"class": name})
        ET.SubElement(group, "path", {"d": " ".join(strokes)})
        return group

    if trend.band:
        bottom = low if trend.band.low is None else trend.band.low
        top = high if trend.band.high is None else trend.band.high
        corners = ((times[0], bottom), (times[-1], bottom), (times[-1], top), (times[0], top))
        yield line("rb-expected", f"M{' L'.join(at(*corner) for corner in corners)} Z")
    timed = list(zip(times, trend.points, strict=True))
    yield line("rb-spread", *(f"M{at(time, one.low)} L{at(time, one.high)}" for time, one in timed))
    if trend.changed:
        yield line("rb-versions", *(f"M{at(times[n], low)} L{at(times[n], high)}" for n in trend.changed))
    places = [at(time, one.value) for time, one in timed]
    value = line("rb-value", f"M{' L'.join(places)}")
    for where, one in zip(places, trend.points, strict=True):
        x, y = where.split()
        dot = ET.SubElement(value, "circle", {"cx": x, "cy": y, "r": "3"})
        # Shown by the browser itself when the pointer rests on it.
        title = ET.SubElement(dot, "title")
        title.text = f"{one.when.astimezone(UTC).strftime(pattern)}: {format_value(one.value, trend.unit)}"
    yield value
