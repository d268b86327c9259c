"""Numbers as people read them. Whatever is missing or not finite becomes a dash."""

import math
from typing import TypeGuard

MISSING = "–"


def count(number: float | None) -> str:
    """A whole number with thousands separated.

    >>> count(429168), count(None)
    ('429,168', '–')
    """
    return f"{number:,.0f}" if _is_number(number) else MISSING


def short(number: float | None) -> str:
    """Four significant digits and a magnitude.

    >>> short(1_814_073_344), short(11_181_642), short(61_706), short(776)
    ('1.814 G', '11.18 M', '61.71 k', '776')
    """
    if not _is_number(number):
        return MISSING
    if abs(number) < 10_000:
        return count(number)
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(number) >= scale:
            return f"{_significant(number / scale, 4)} {letter}"
    return f"{_significant(number / 1e3, 4)} k"


def size(number: float | None) -> str:
    """Bytes, in powers of a thousand; exact below ten thousand.

    >>> size(1_518), size(61_706), size(124_099_840)
    ('1,518 B', '61.7 kB', '124 MB')
    """
    if not _is_number(number):
        return MISSING
    if abs(number) < 10_000:
        return f"{number:,.0f} B"
    for scale, unit in ((1e9, "GB"), (1e6, "MB")):
        if abs(number) >= scale:
            return f"{_significant(number / scale, 3)} {unit}"
    return f"{_significant(number / 1e3, 3)} kB"


def percent(fraction: float | None, digits: int | None = None) -> str:
    """A fraction in per cent, with so many digits behind the point, or about three significant ones.

    >>> percent(0.9912, 2), percent(0.256), percent(0.001808), percent(1.0), percent(0.000024)
    ('99.12 %', '25.6 %', '0.181 %', '100 %', '0.0024 %')
    """
    if not _is_number(fraction):
        return MISSING
    value = 100 * fraction
    return f"{value:.{digits}f} %" if digits is not None else f"{_significant(value, 3)} %"


def milliseconds(number: float | None) -> str:
    """A time in milliseconds with three significant digits.

    >>> milliseconds(0.21264), milliseconds(33.26)
    ('0.213 ms', '33.3 ms')
    """
    return f"{_significant(number, 3)} ms" if _is_number(number) else MISSING


def points(before: float | None, after: float | None) -> str:
    """The difference of two fractions in percentage points.

    >>> points(0.991, 0.984), points(0.5, 0.5), points(0.7, None)
    ('−0.70 points', '±0.00 points', '–')
    """
    if not (_is_number(before) and _is_number(after)):
        return MISSING
    difference = round(100 * (after - before), 2)
    sign = "±" if difference == 0 else "+" if difference > 0 else "−"
    return f"{sign}{abs(difference):.2f} points"


def change(
    before: float | None, after: float | None, *, less: str = "less", more: str = "more", noise: float = 0.0
) -> str:
    """How a quantity changed: a factor from two on, per cent below.

    Args:
        before, after: The quantity; not negative.
        less, more: The words for it: smaller and larger, fewer and more.
        noise: A change by a smaller share than this is none.

    >>> change(429_168, 776, less="fewer"), change(10, 9), change(1, 1), change(1.0, 1.01, noise=0.03)
    ('553x fewer', '10 % less', 'the same', 'about the same')
    """
    if not (_is_number(before) and _is_number(after)) or min(before, after) <= 0:
        return MISSING
    ratio, word = (before / after, less) if after <= before else (after / before, more)
    if ratio >= 2:
        return f"{_factor(ratio)}x {word}"
    share = abs(after - before) / before
    if share < max(noise, 0.0005):
        return "about the same" if noise else "the same"
    return f"{_significant(100 * share, 2)} % {word}"


def shape(sizes: object) -> str:
    """A shape with multiplication signs.

    >>> shape([64, 3, 3, 3]), shape(())
    ('64×3×3×3', 'scalar')
    """
    if not isinstance(sizes, list | tuple):
        return MISSING
    return "×".join(map(str, sizes)) or "scalar"


def plural(number: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "tensor"), plural(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _factor(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else _significant(ratio, 2 if ratio < 10 else 3)


def _significant(number: float, digits: int) -> str:
    """Fixed-point notation with so many significant digits, no zeros behind the point just to fill it."""
    if number == 0:
        return "0"
    if abs(number) < 1e-6:
        return "< 0.000001"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
