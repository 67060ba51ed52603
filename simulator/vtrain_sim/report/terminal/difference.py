"""The difference between two steps for the terminal."""

from __future__ import annotations

from rich.console import Console

from vtrain_sim.report.difference_words import facts
from vtrain_sim.report.tables import duration, percent, signed, table
from vtrain_sim.report.terminal.printing import printers
from vtrain_sim.validate.account import Account
from vtrain_sim.validate.difference import Difference

# Less is rounding.
_LEAST_S = 1e-9
_LEAST_SHARE = 5e-5


@printers.register(Difference)
def print_difference(difference: Difference, console: Console, rows: bool = True) -> None:
    """Print both steps, the largest causes in words, and the waterfall."""
    a, b = difference.a, difference.b
    console.print(f"A  [bold]{difference.name_a}[/bold]: {_side(a)}", highlight=False)
    console.print(f"B  [bold]{difference.name_b}[/bold]: {_side(b)}", highlight=False)
    if difference.work:
        console.print(difference.work, highlight=False)
    console.print(f"{_headline(difference)}:", highlight=False)
    for sentence in difference.sentences:
        console.print(f"- {sentence}", highlight=False)
    if rows:
        lines = [
            (cause.name, _time(cause.a_s), _time(cause.b_s), _signed(cause.difference_s)) for cause in difference.shown
        ]
        lines.append(("step", duration(a.step_s), duration(b.step_s), _signed(difference.difference_s)))
        console.print(table("where the difference comes from", ("", "A", "B", "B - A"), lines))
    for remark in difference.remarks:
        if remark != difference.work:
            console.print(remark)


def _headline(difference: Difference) -> str:
    """How much longer B's step takes; beside it tokens per second, where the steps are of unlike work."""
    a, b = difference.a, difference.b
    share = difference.difference_s / a.step_s
    if abs(share) < _LEAST_SHARE:
        takes = "B takes [bold]the same[/bold] time"
    else:
        more = "longer" if share > 0 else "less"
        change = percent(share, sign=True)
        takes = f"B takes [bold]{duration(abs(difference.difference_s))}[/bold] {more} ({change})"
    if not (difference.work and a.tokens_per_s_per_gpu and b.tokens_per_s_per_gpu):
        return takes
    each, all_of = b.tokens_per_s_per_gpu / a.tokens_per_s_per_gpu - 1, b.tokens_per_s / a.tokens_per_s - 1
    return (
        f"{takes}, and trains [bold]{_amount(each)} tokens/s per GPU[/bold] "
        f"(in all {_amount(all_of)}: {a.tokens_per_s:,.0f} to {b.tokens_per_s:,.0f} tokens/s)"
    )


def _amount(change: float) -> str:
    """More or fewer, and by which part."""
    if abs(change) < _LEAST_SHARE:
        return "as many"
    return f"{percent(abs(change))} {'more' if change > 0 else 'fewer'}"


def _side(account: Account) -> str:
    step = f"{duration(account.step_s)} a step ({'captured' if account.captured else 'projected'})"
    fit = ["which does not fit"] if account.fits is False else []
    return ", ".join([step, *facts(account), *fit])


def _time(seconds: float) -> str | None:
    return duration(seconds) if seconds else None


def _signed(seconds: float) -> str:
    return signed(seconds, duration) if abs(seconds) > _LEAST_S else "0"
