"""A number over time as SVG, without colours: the site's style sheet gives them, so both schemes and print fit."""

import re
import sys
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pygal
from markupsafe import Markup
from pygal.style import Style

from runner.pages.proof import Band, Trend
from runner.pages.text import plain
from runner.units import format_value

# pygal hooks its plug-ins into the import system by an interface that Python has dropped; none is used here.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

WIDTH, HEIGHT = 720, 220
_TICKS = 4
# Within so many days the hour matters.
_DAYS = timedelta(days=4)
_NEVER = frozenset({"defs", "title"})
_UNUSED = frozenset({"background", "titles", "tooltip-overlay", "text-overlay"})
# Only so that the library has something to work with: its style sheet is taken out again.
_NO_STYLE = Style(colors=("#000000",) * 8, label_font_size=15, major_label_font_size=15)


def trend_plot(trend: Trend, name: str) -> Markup:
    """The plot of a trend of two points or more.

    Args:
        trend: what to draw; its words become the text alternative.
        name: the element's id, unique on its page.
    """
    times = [point.when.timestamp() for point in trend.points]
    low = min(point.low for point in trend.points)
    high = max(point.high for point in trend.points)
    band = trend.band or Band(None, None, "")
    bounds = [bound for bound in (band.low, band.high) if bound is not None]
    low, high = min([low, *bounds]), max([high, *bounds])
    margin = (high - low or abs(high) or 1.0) * 0.06
    low, high = (low - margin if low - margin > 0 or low < 0 else 0.0), high + margin
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
        xrange=(times[0], times[-1]),
        min_scale=3,
        max_scale=6,
        x_labels=[times[0] + (times[-1] - times[0]) * step / _TICKS for step in range(_TICKS + 1)],
        x_value_formatter=lambda moment: _date(trend, moment),
        value_formatter=lambda value: format_value(value, trend.unit),
        allow_interruptions=True,
    )
    if trend.band:
        bottom = low if trend.band.low is None else trend.band.low
        top = high if trend.band.high is None else trend.band.high
        ends = (
            (times[0], bottom),
            (times[-1], bottom),
            (times[-1], top),
            (times[0], top),
            (times[0], bottom),
        )
        chart.add("expected", list(ends), show_dots=False)
    spread: list[tuple[float, float] | None] = []
    for time, point in zip(times, trend.points, strict=True):
        spread += [(time, point.low), (time, point.high), None]
    chart.add("spread", spread[:-1], show_dots=False)
    for place in trend.changed:
        chart.add("versions", [(times[place], low), (times[place], high)], show_dots=False)
    chart.add(
        "value", [(time, point.value) for time, point in zip(times, trend.points, strict=True)], dots_size=3
    )
    return _bare(chart, trend, name)


def _date(trend: Trend, moment: float) -> str:
    within_days = trend.last - trend.first < _DAYS
    return datetime.fromtimestamp(moment, UTC).strftime("%m-%d %H:%M" if within_days else "%Y-%m-%d")


def _bare(chart: pygal.XY, trend: Trend, name: str) -> Markup:
    """The drawing without the library's style sheet, script, comments and tooltips, and with names for its series."""
    root = chart.render_tree()
    _strip(root)
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "class": "rb-plot",
            "role": "img",
            "id": name,
            "aria-label": plain(" ".join(trend.words.split())),
        }
    )
    names = [*(["expected"] if trend.band else []), "spread", *(["versions"] * len(trend.changed)), "value"]
    for group in root.iter("g"):
        number = re.match(r"series serie-(\d+)", group.get("class", ""))
        if number:
            group.set("class", f"rb-{names[int(number[1])]}")
    return Markup(_without_line_ends(ET.tostring(root, encoding="unicode")))  # noqa: S704 - drawn here, text escaped


def _strip(element: ET.Element) -> None:
    for child in list(element):
        words = set(child.get("class", "").split())
        if not isinstance(child.tag, str) or child.tag in _NEVER or words & _UNUSED:
            element.remove(child)
        elif "dots" in words:
            # Its value, shown by the browser itself when the pointer rests on it.
            circle, value = child[0], child[1]
            title = ET.SubElement(circle, "title")
            title.text = value.text
            child[:] = [circle]
        else:
            _strip(child)


def _without_line_ends(svg: str) -> str:
    """One line, so that no Markdown syntax finds a line to begin on."""
    return svg.replace("\n", " ")
