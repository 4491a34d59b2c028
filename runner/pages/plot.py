"""A number over time as SVG in the colour of the text; the site's style sheet gives it colours in both schemes.

Pure. The attributes of presentation are for sites without that style sheet, where a path would be filled with black.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

from markupsafe import Markup

from runner.pages.text import captured_text
from runner.pages.trends import TrendView

WIDTH, HEIGHT = 720, 220
# Room for labels at the size that a phone shows them with (assets/extra.css): half a line above, half a date to the
# right, a line below, and to the left so much for each character.
_TOP, _RIGHT, _BOTTOM, _CHARACTER = 12, 66, 28, 11.5
# Between the vertical axis and the first point, and from a label to its axis.
_INSET, _GAP = 10, 6
_VALUE_TICKS, _TIME_TICKS = 6, 5
# Seconds between the ticks of time: none is more than three times the one before, so that there is a tick at all.
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86_400, 365 * 86_400
_TIME_STEPS = (
    *(_MINUTE * count for count in (1, 2, 5, 10, 20, 30)),
    *(_HOUR * count for count in (1, 2, 3, 6, 12)),
    *(_DAY * count for count in (1, 2, 3, 5, 10, 20, 30, 60, 90, 180)),
)
# Over fewer days than this the axis shows hours.
_HOURS_UP_TO = timedelta(days=4)


@dataclass(frozen=True)
class _Frame:
    """The rectangle of the points: maps seconds since the epoch and values to coordinates."""

    left: float
    times: tuple[float, float]
    values: tuple[float, float]
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM

    def x(self, time: float) -> float:
        first, last = self.times
        begin, end = self.left + _INSET, self.right - _INSET
        return begin + (end - begin) * ((time - first) / (last - first) if last > first else 0.5)

    def y(self, value: float) -> float:
        low, high = self.values
        return self.bottom - (self.bottom - _TOP) * ((value - low) / (high - low) if high > low else 0.5)

    def at(self, time: float, value: float) -> str:
        return f"{self.x(time):.1f} {self.y(value):.1f}"


def trend_plot(trend: TrendView, name: str) -> Markup:
    """The plot of a trend of two points or more, as one line of SVG.

    Args:
        trend: what to draw; its description becomes the text alternative.
        name: the element's id, unique on its page.
    """
    first, last = (trend.points[place].when for place in (0, -1))
    pattern = "%m-%d %H:%M" if last - first < _HOURS_UP_TO else "%Y-%m-%d"
    labels = _value_labels(trend)
    frame = _Frame(
        _GAP + _CHARACTER * max(map(len, labels.values())), (first.timestamp(), last.timestamp()), trend.axis
    )
    svg = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "class": "rb-plot",
            "fill": "none",
            "stroke": "currentColor",
            "role": "img",
            "id": name,
            "aria-label": captured_text(" ".join(trend.words.split())),
        },
    )
    svg.extend(_axes(frame, labels, pattern))
    svg.extend(_series(trend, frame, pattern))
    # One line, so that no Markdown syntax finds a line to begin on.
    return Markup(ET.tostring(svg, encoding="unicode").replace("\n", " "))  # noqa: S704 - drawn here, text escaped


def value_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`: two at least, six at most."""
    apart = (high - low) / (_VALUE_TICKS - 1)
    if apart < sys.float_info.min:
        return [low]
    power = 10.0 ** math.floor(math.log10(apart))
    step = next((power * times for times in (1, 2, 5) if power * times >= apart), 10 * power)
    return [count * step for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def time_ticks(first: float, last: float) -> list[float]:
    """Whole minutes, hours or days in UTC, five at most; the first moment alone if there is none in between.

    Args:
        first: in seconds since the epoch.
        last: the same, not before `first`.
    """
    apart = (last - first) / (_TIME_TICKS - 1)
    step = next((one for one in _TIME_STEPS if one >= apart), _YEAR * math.ceil(apart / _YEAR))
    found = range(math.ceil(first / step), math.floor(last / step) + 1)
    return [float(count * step) for count in found] or [first]


def _value_labels(trend: TrendView) -> dict[float, str]:
    """The ticks of the vertical axis with their text: as many digits as tell them apart."""
    factor, unit = trend.scale
    low, high = trend.axis
    ticks = value_ticks(low / factor, high / factor)
    digits = 4
    while len({f"{tick:.{digits}g}" for tick in ticks}) < len(ticks):
        digits += 1
    return {tick * factor: f"{tick:,.{digits}g} {unit}".strip() for tick in ticks}


def _axes(frame: _Frame, labels: dict[float, str], pattern: str) -> Iterable[ET.Element]:
    values = _lines("rb-values", [f"M{frame.left:.1f} {frame.y(tick):.1f} H{frame.right}" for tick in labels])
    values.set("stroke-opacity", "0.2")
    for tick, text in labels.items():
        # The text's baseline is a third of a line below its middle.
        _label(values, text, frame.left - _GAP, frame.y(tick) + 5, "end")
    yield values
    times = _lines("rb-times", [f"M{frame.left:.1f} {_TOP} V{frame.bottom} H{frame.right}"])
    for tick in time_ticks(*frame.times):
        text = datetime.fromtimestamp(tick, UTC).strftime(pattern)
        _label(times, text, frame.x(tick), frame.bottom + 20, "middle")
    yield times


def _series(trend: TrendView, frame: _Frame, pattern: str) -> Iterable[ET.Element]:
    low, high = frame.values
    timed = [(point.when.timestamp(), point) for point in trend.points]
    if trend.band:
        bottom = low if trend.band.low is None else trend.band.low
        top = high if trend.band.high is None else trend.band.high
        first, last = frame.times
        corners = ((first, bottom), (last, bottom), (last, top), (first, top))
        band = _lines("rb-expected", [f"M{' L'.join(frame.at(*corner) for corner in corners)} Z"])
        band.attrib |= {"fill": "currentColor", "fill-opacity": "0.1", "stroke": "none"}
        yield band
    yield _lines(
        "rb-spread", [f"M{frame.at(time, one.low)} L{frame.at(time, one.high)}" for time, one in timed]
    )
    if trend.changed:
        changed = [timed[place][0] for place in trend.changed]
        yield _lines("rb-versions", [f"M{frame.at(time, low)} L{frame.at(time, high)}" for time in changed])
    places = [frame.at(time, one.value) for time, one in timed]
    value = _lines("rb-value", [f"M{' L'.join(places)}"])
    for place, one in zip(places, trend.points, strict=True):
        x, y = place.split()
        dot = ET.SubElement(value, "circle", {"cx": x, "cy": y, "r": "3", "fill": "currentColor"})
        # Shown by the browser itself when the pointer rests on it.
        title = ET.SubElement(dot, "title")
        title.text = f"{one.when.astimezone(UTC).strftime(pattern)}: {trend.show(one.value)}"
    yield value


def _lines(name: str, strokes: Sequence[str]) -> ET.Element:
    group = ET.Element("g", {"class": name})
    ET.SubElement(group, "path", {"d": " ".join(strokes)})
    return group


def _label(group: ET.Element, text: str, x: float, y: float, anchor: str) -> None:
    shown = {"fill": "currentColor", "stroke": "none", "text-anchor": anchor}
    ET.SubElement(group, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **shown}).text = text
