"""Why one step takes longer than another: both sides, the causes in words, and a bar for each."""

from __future__ import annotations

from vtrain_sim.report.difference_words import facts
from vtrain_sim.report.page.document import pages
from vtrain_sim.report.page.model import Figure, Page, Section
from vtrain_sim.report.tables import duration, percent
from vtrain_sim.validate.account import Account
from vtrain_sim.validate.difference import Difference

_TITLES = {"a_s": "A", "b_s": "B", "difference_s": "B - A"}


@pages.register(Difference)
def page_of_difference(difference: Difference) -> Page:
    """Both steps, what differs most in words, every cause, and the settings that differ."""
    a, b = difference.a, difference.b
    change = percent(difference.difference_s / a.step_s, sign=True)
    more = "less" if difference.difference_s < 0 else "more"
    figures = (
        Figure(f"A: {difference.name_a}", duration(a.step_s), _side(a)),
        Figure(f"B: {difference.name_b}", duration(b.step_s), _side(b)),
        Figure("B against A", change or "-", f"{duration(abs(difference.difference_s))} {more} a step"),
    )
    chart = {
        "draw": "bars",
        "category": "cause",
        "values": ["a_s", "b_s"],
        "tones": {"a_s": "measured", "b_s": "projected"},
        "lying": True,
        "hover": ["difference_s"],
    }
    lead = "Seconds of a step by cause, two bars each: A and B. Their differences add up to that of the steps."
    words = (*difference.remarks, *difference.sentences)
    settings = [{"setting": name, "A": str(a), "B": str(b)} for name, (a, b) in difference.settings.items()]
    sections = [
        Section("Where the difference comes from", lead, difference.rows(), chart, _source(difference), titles=_TITLES)
    ]
    if settings:
        sections.append(Section("What differs", "Settings of the two, where both are known.", settings))
    return Page("comparison", f"{difference.name_a} and {difference.name_b}", "", figures, tuple(sections), words)


def _side(account: Account) -> str:
    fit = ["does not fit"] if account.fits is False else []
    return "; ".join(["captured" if account.captured else "projected", *facts(account), *fit])


def _source(difference: Difference) -> str:
    sides = {"A": difference.a, "B": difference.b}
    return ", ".join(f"{name}: {'measured' if side.captured else 'projected'}" for name, side in sides.items())
