"""Maintenance windows: five fields of cron say when one opens, in local time, and it stays open for some hours. Pure.

``minute hour day month weekday``, each ``*``, a number, a range ``1-5``, a list ``1,3`` or a step ``*/15``; months and
weekdays also by their first three letters; Sunday is 0 or 7. Where both day and weekday are given, either one will do
(``crontab(5)`` of Vixie cron and POSIX). Local time is UTC plus an offset that is handed in as a function, because it
changes over the year. A start that daylight saving skips opens that much later; one that comes twice opens once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date

from bundles.errors import Refused

Offset = Callable[[int], int]
"""UTC epoch ms -> milliseconds that local time is ahead of UTC then."""

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
MAX_HOURS = 7 * 24
_EPOCH = date(1970, 1, 1).toordinal()
_SEARCHED_DAYS = 8 * 366  # from one 29 February to the next, over a year like 2100 that has none
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class WindowRefused(Refused):
    """A maintenance window cannot be read (``WINDOW_INVALID``)."""

    default_code = "WINDOW_INVALID"


@dataclass(frozen=True)
class Cron:
    """When a window opens, in local time.

    Attributes:
        minutes: 0 to 59.
        hours: 0 to 23.
        days: of the month, 1 to 31; None = any.
        months: 1 to 12.
        weekdays: 0 = Sunday to 6; None = any.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int] | None
    months: frozenset[int]
    weekdays: frozenset[int] | None

    def opens_on(self, day: date) -> bool:
        """Return whether a window opens on this local day."""
        if day.month not in self.months:
            return False
        is_day = self.days is not None and day.day in self.days
        is_weekday = self.weekdays is not None and day.isoweekday() % 7 in self.weekdays
        return is_day or is_weekday or (self.days is None and self.weekdays is None)


@dataclass(frozen=True)
class Window:
    """One maintenance window.

    Attributes:
        cron: when it opens.
        duration_ms: how long it stays open.
        offset: of its local time.
    """

    cron: Cron
    duration_ms: int
    offset: Offset

    def is_open(self, now_ms: int) -> bool:
        """Return whether the window is open at ``now_ms`` (UTC epoch ms)."""
        first = self._local_day(now_ms - self.duration_ms) - 1  # an offset that changes meanwhile stays under a day
        days = range(first, self._local_day(now_ms) + 2)
        return any(start <= now_ms < start + self.duration_ms for start in self._starts(days))

    def next_opening_ms(self, now_ms: int) -> int | None:
        """Return when the window opens next after ``now_ms``; None = never (a 30 February)."""
        today = self._local_day(now_ms)
        return next((s for s in self._starts(range(today - 1, today + _SEARCHED_DAYS)) if s > now_ms), None)

    def _local_day(self, now_ms: int) -> int:
        return (now_ms + self.offset(now_ms)) // DAY_MS

    def _starts(self, days: range) -> Iterator[int]:
        """Yield the starts on local days (days since 1970-01-01), in UTC epoch ms, in order within a day."""
        for day in days:
            if self.cron.opens_on(date.fromordinal(_EPOCH + day)):
                for hour in self.cron.hours:
                    for minute in self.cron.minutes:
                        yield self._utc(day * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS)

    def _utc(self, local_ms: int) -> int:
        """Return the UTC time of a local one: the first where there are two, and behind the gap where there is none."""
        candidates = [local_ms - self.offset(local_ms - DAY_MS), local_ms - self.offset(local_ms + DAY_MS)]
        fitting = [utc for utc in candidates if utc + self.offset(utc) == local_ms]
        return min(fitting) if fitting else candidates[0]


def next_opening_ms(windows: Collection[Window], now_ms: int) -> int | None:
    """Return when updates may be activated next: ``now_ms`` where a window is open, None where none ever opens."""
    if any(window.is_open(now_ms) for window in windows):
        return now_ms
    return min((opening for w in windows if (opening := w.next_opening_ms(now_ms)) is not None), default=None)


def parse_window(start: str, hours: float, offset: Offset) -> Window:
    """Read one window.

    Args:
        start: five fields of cron.
        hours: how long it stays open, above 0 and at most a week.
        offset: of its local time.

    Raises:
        WindowRefused: ``WINDOW_INVALID``.
    """
    if not 0 < hours <= MAX_HOURS:
        raise WindowRefused(f"A window of {hours} hours cannot be kept.", remedy=f"Give 0 < hours <= {MAX_HOURS}.")
    fields = start.split()
    if len(fields) != 5:
        raise WindowRefused(
            f"{start!r} has {len(fields)} fields.", remedy="Write minute, hour, day, month and weekday: '0 2 * * *'."
        )
    minute, hour, day, month, weekday = fields
    cron = Cron(
        minutes=tuple(sorted(_field(minute, 0, 59))),
        hours=tuple(sorted(_field(hour, 0, 23))),
        days=None if day == "*" else _field(day, 1, 31),
        months=_field(month, 1, 12, _MONTHS, 1),
        weekdays=None if weekday == "*" else frozenset(n % 7 for n in _field(weekday, 0, 7, _DAYS)),
    )
    return Window(cron, round(hours * HOUR_MS), offset)


def _field(text: str, low: int, high: int, names: tuple[str, ...] = (), base: int = 0) -> frozenset[int]:
    values: set[int] = set()
    for part in text.lower().split(","):
        span, slash, step_text = part.partition("/")
        try:
            step = int(step_text) if slash else 1
            if span == "*":
                first, last = low, min(high, 6) if names is _DAYS else high
            else:
                left, dash, right = span.partition("-")
                first = _number(left, names, base)
                last = _number(right, names, base) if dash else (high if slash else first)
        except ValueError:
            raise WindowRefused(
                f"{text!r} is no field of cron.", remedy="Write '0 2 * * sat,sun', for example."
            ) from None
        if step < 1 or not low <= first <= last <= high:
            raise WindowRefused(f"{text!r} is outside {low} to {high}.", remedy="Write '0 2 * * *', for example.")
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _number(text: str, names: tuple[str, ...], base: int) -> int:
    return names.index(text) + base if text in names else int(text)
