"""A number over time as SVG, without colours: the site's style sheet gives them, so it suits both schemes and print.

The library lays out the axes and maps values to coordinates. The points are drawn here: a build makes thousands of
plots, and the library's own series cost several times as much.
"""

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pygal
from markupsafe import Markup
from pygal.etree import etree as library_tree
from pygal.style import Style

from runner.pages.text import plain
from runner.pages.trends import TrendView

# pygal hooks its plug-ins into the import system by an interface that Python has dropped; none is used here.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]
# It takes lxml where there is one; its elements do not go together with those made here.
library_tree.to_etree()

WIDTH, HEIGHT = 720, 220
_TICKS = 4
# Over fewer days than this the axis shows hours.
_DAYS = timedelta(days=4)
# The library needs one; its style sheet is not written.
_NO_STYLE = Style(colors=("#000000",) * 8, label_font_size=15, major_label_font_size=15)
_Place = Callable[[tuple[float, float]], tuple[float, float]]


def trend_plot(trend: TrendView, name: str) -> Markup:
    """The plot of a trend of two points or more.

    Args:
        trend: what to draw; its description becomes the text alternative.
        name: the element's id, unique on its page.
    """
    first, last = (trend.points[place].when.timestamp() for place in (0, -1))
    low, high = trend.axis
    pattern = "%m-%d %H:%M" if last - first < _DAYS.total_seconds() else "%Y-%m-%d"
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
        value_formatter=trend.axis_text,
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
        # Only at this point does the library map values to coordinates.
        margin = chart.margin_box
        plot = ET.SubElement(svg, "g", {"transform": f"translate({margin.left}, {margin.top})"})
        plot.extend(_axes(drawn))
        plot.extend(_series(trend, low, high, pattern, chart.view))
        return svg

    chart.add_xml_filter(draw)
    # One line, so that no Markdown syntax finds a line to begin on.
    text = ET.tostring(chart.render_tree(), encoding="unicode").replace("\n", " ")
    return Markup(text)  # noqa: S704 - drawn here, text escaped


def _axes(drawn: ET.Element) -> Iterable[ET.Element]:
    """The axes that the library drew, without its tooltips."""
    for axis in drawn.iter("g"):
        if "axis" in axis.get("class", "").split():
            for guide in axis.iter("g"):
                for title in guide.findall("title"):
                    guide.remove(title)
            yield axis


def _series(trend: TrendView, low: float, high: float, pattern: str, place: _Place) -> Iterable[ET.Element]:
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
        title.text = f"{one.when.astimezone(UTC).strftime(pattern)}: {trend.show(one.value)}"
    yield value
