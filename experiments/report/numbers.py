"""Numbers as headlines, tables, the page and figures write them."""

import math


def rounded(value: float) -> str:
    """Three digits, thousands grouped, a true minus sign."""
    if value == 0:
        return "0"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def percent(value: float) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.1f}".replace("-", "−")


def whole(value: float) -> str:
    """A whole number, thousands grouped."""
    return f"{value:,.0f}"


def counted(value: int, one: str, many: str | None = None) -> str:
    """A number of things: "1 cell", "2 cells"."""
    return f"{value} {one if value == 1 else many or one + 's'}"


def budget_text(value: float | None) -> str:
    """A budget in USD a task."""
    return "none" if value is None else f"{value:.4g}"


def budget_key(value: float | None) -> str:
    """A budget as filters compare it: as many digits as the groups of horizons use."""
    return "none" if value is None else f"{value:.6g}"


def level_text(value: float) -> str:
    """A confidence level: "95 %"."""
    return f"{100 * value:g} %"


def exponent(slope: float) -> str:
    """A slope, two decimals and a true minus sign."""
    return f"{slope:.2f}".replace("-", "−")


def exponent_interval(ends: tuple[float, float]) -> str:
    """Its interval in brackets; empty without one."""
    return "" if math.isnan(ends[0]) or math.isnan(ends[1]) else f"[{exponent(ends[0])}, {exponent(ends[1])}]"
