"""Figures as a reader takes them in: as many digits as are meant, and a dash for none."""

from __future__ import annotations

_TINY = 1e-3
NONE = "–"  # noqa: RUF001  # the dash that tables use


def percent(fraction: float | None, digits: int = 2) -> str:
    """A *fraction* in percent, without the sign."""
    return NONE if fraction is None else f"{100 * fraction:.{digits}f}"


def change(points: float | None, digits: int = 2) -> str:
    """A difference with its sign; what rounds to nothing has none."""
    if points is None:
        return NONE
    shown = f"{points:+.{digits}f}"
    return shown[1:] if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")


def points(value: float | None) -> str:
    """A number of points, with a sign only below nothing."""
    return change(value).removeprefix("+")


def figure(value: float | None, significant: int = 4) -> str:
    """A *value* of any size, short; what is tiny needs two digits."""
    if value is None:
        return NONE
    return f"{value:.{min(significant, 2) if abs(value) < _TINY else significant}g}"


def milliseconds(value: float | None) -> str:
    """A time in ms: two digits behind the point where they matter."""
    if value is None:
        return NONE
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"  # noqa: PLR2004


def with_unit(value: float | None, unit: str) -> str:
    """A figure and its unit."""
    return f"{figure(value)} {unit}".strip()


def counted(number: int, noun: str) -> str:
    """A *number* of things: ``1 check``, ``3 checks``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
