"""Pages in a real browser: charts are drawn, answer to mouse and keys, and ask the network for nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vtrain as vt
from simulator.page.browser import Browser
from simulator.page.samples import HOSTILE
from simulator.page.test_content import NAMES

WITHOUT_CHARTS = ("query", "hostile-table")
# Where a point of a series of the first chart is, in pixels from the chart's corner.
_PLACE = """
const [canvas] = document.querySelectorAll(arguments[0]);
const chart = echarts.getInstanceByDom(canvas);
const series = chart.getOption().series.findIndex((one) => one.name === arguments[1]);
return chart.convertToPixel({ seriesIndex: series }, chart.getOption().series[series].data[0].value);
"""


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_drawn_without_a_word_or_a_request(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name])
    sections = len(browser.all("section.card"))
    assert browser.messages() == []
    assert browser.requests() == [pages[name].as_uri(), "data:,"][:1]
    colours = browser.colours()
    assert (colours == []) == (name in WITHOUT_CHARTS)
    assert all(count > 3 for count in colours), colours
    # Each chart says what it shows, takes the focus, and has its values in a table.
    assert sections >= 1
    for section in browser.all("section.card"):
        for canvas in section.find_elements("css selector", ".canvas"):
            assert canvas.get_attribute("role") == "img"
            assert len(canvas.get_attribute("aria-label") or "") > 60
            assert canvas.get_attribute("tabindex") == "0"
            assert len(section.find_elements("css selector", "table tbody tr")) > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, pages: dict[str, Path], name: str, scheme: str) -> None:
    browser.open(pages[name], width=360, scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    assert browser.messages() == []
    assert all(count > 3 for count in browser.colours())
    wide = (
        "return [...document.querySelectorAll('.canvas')].filter((c) => c.getBoundingClientRect().right > 360).length"
    )
    assert browser.run(wide) == 0


def test_the_front_answers_to_the_mouse(
    browser: Browser, pages: dict[str, Path], reports: dict[str, vt.Report]
) -> None:
    """Hover shows the fastest plan of the front; a click shows its flags."""
    browser.open(pages["plan"])
    x, y = browser.run(_PLACE, ".canvas", "Pareto front")
    assert browser.texts(".tooltip") == []
    browser.hover(".page section:first-of-type .canvas", x, y)
    browser.wait(lambda: browser.texts(".tooltip"))
    (tooltip,) = browser.texts(".tooltip")
    result = reports["plan"].main
    assert isinstance(result, vt.PlanResult)
    fastest = result.pareto[0].to_dict()
    # The nearest of several points at one place may be a plan of the list of the best.
    assert tooltip.startswith(("Pareto front", "best by days"))
    assert "MFU" in tooltip
    assert f"GPUs{fastest['num_gpus']}" in tooltip
    box = browser.run("const b = document.querySelector('.canvas').getBoundingClientRect(); return [b.left, b.top]")
    for kind in ("mousePressed", "mouseReleased"):
        at = {"x": box[0] + x, "y": box[1] + y, "button": "left", "clickCount": 1}
        browser.command("Input.dispatchMouseEvent", type=kind, **at)
    browser.wait(lambda: browser.texts(".chosen pre"))
    (flags,) = browser.texts(".chosen pre")
    assert "--tensor-model-parallel-size" in flags
    assert flags in [row["megatron_args"] for row in result.every.rows()]


def test_a_chart_answers_to_keys(browser: Browser, pages: dict[str, Path]) -> None:
    """Arrows visit the values and read them out, Enter chooses one; the focus is seen."""
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["plan"])
    browser.run("document.querySelector('.canvas').focus()")
    browser.press(Keys.ARROW_RIGHT)
    first = browser.texts(".chart [aria-live]")[0]
    assert "days" in first
    assert browser.texts(".tooltip")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.texts(".chart [aria-live]")[0] not in ("", first)
    browser.press(Keys.ENTER)
    assert "--tensor-model-parallel-size" in browser.texts(".chosen pre")[0]
    browser.open(pages["project"])
    browser.run("document.querySelector('.canvas').focus()")
    browser.press(Keys.END)
    assert "time" in browser.texts(".chart [aria-live]")[0]
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_tables_are_filtered_and_sorted(
    browser: Browser, pages: dict[str, Path], reports: dict[str, vt.Report]
) -> None:
    result = reports["plan"].main
    assert isinstance(result, vt.PlanResult)
    rows = result.every.rows()
    browser.open(pages["plan"])
    table = "section:first-of-type .table"
    status = f"{table} .status"
    assert browser.texts(status) == [f"1–50 of {len(rows)} rows"]
    browser.type(f"{table} input", "tp=2 pp>1 fits")
    kept = [row for row in rows if row["tp"] == 2 and row["pp"] > 1 and row["verdict"] == "fits"]
    assert 0 < len(kept) < len(rows)
    assert f"{len(kept)} of {len(rows)} rows" in browser.texts(status)[0]
    heads = browser.texts(f"{table} th")
    (mfu,) = [place for place, head in enumerate(heads) if head.startswith("MFU")]
    for order in ("ascending", "descending"):
        browser.all(f"{table} th button")[mfu].click()
        assert browser.all(f"{table} th")[mfu].get_attribute("aria-sort") == order
        shown = [float(text) for text in browser.texts(f"{table} tbody td:nth-child({mfu + 1})")]
        expected = sorted((100 * row["mfu"] for row in kept), reverse=order == "descending")[: len(shown)]
        assert shown == pytest.approx(expected, abs=0.01)
    browser.type(f"{table} input", "no such word")
    assert browser.texts(status) == [f"0 of {len(rows)} rows"]
    browser.type(f"{table} input", "")
    browser.all(f"{table} .pager button")[1].click()
    assert browser.texts(status) == [f"51–100 of {len(rows)} rows"]


def test_buttons_choose_what_a_chart_shows(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["schedule"])
    axis = "return echarts.getInstanceByDom(document.querySelector('.canvas')).getOption().xAxis[0].name"
    before = browser.run(axis)
    (button,) = [b for b in browser.all(".segments button") if b.text == "cost"]
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert before != browser.run(axis) == "cost (US$)"


def test_flags_are_copied(browser: Browser, pages: dict[str, Path], reports: dict[str, vt.Report]) -> None:
    result = reports["plan"].main
    assert isinstance(result, vt.PlanResult)
    browser.open(pages["plan"])
    browser.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    button = browser.all("section:first-of-type tbody button")[0]
    button.click()
    browser.wait(lambda: browser.run("return window.copied"))
    assert browser.run("return window.copied") == result.every.rows()[0]["megatron_args"]
    browser.wait(lambda: button.text == "Copied")


def test_dark_mode_changes_page_and_charts(browser: Browser, pages: dict[str, Path]) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    pixels = "return document.querySelector('.canvas canvas').toDataURL()"
    browser.open(pages["project"])
    light = browser.run(ground), browser.run(pixels)
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait(lambda: browser.run(pixels) != light[1])
    assert browser.run(ground) != light[0]


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("hostile")])
def test_hostile_names_are_text(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name])
    assert HOSTILE in browser.run("return document.body.textContent")
    for canvas in browser.all(".canvas"):
        browser.run("arguments[0].focus()", canvas)
        browser.press("\ue014", "\ue014")
    for button in browser.all("tbody tr button")[:1]:
        button.click()
    browser.run("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    for field in browser.all("input[type=search]"):
        field.send_keys(HOSTILE)
    assert browser.run("return window.hacked ?? null") is None
    assert browser.run("return document.querySelectorAll('img, b, .page script').length") == 0
    assert browser.messages() == []


def test_the_policy_stops_what_is_not_the_pages_own(browser: Browser, pages: dict[str, Path]) -> None:
    """Were a name ever to become markup, its script would not run and its address would not be asked."""
    browser.open(pages["project"])
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', arguments[0]);"
        "const script = document.createElement('script'); script.textContent = 'window.hacked = 2';"
        "document.body.append(script)",
        '<img src="https://example.com/x.png" onerror="window.hacked=1">',
    )
    browser.wait(lambda: len(browser.all("img")) == 1)
    assert browser.run("return window.hacked ?? null") is None
    blocked = browser.messages()
    assert any("Content Security Policy" in message for message in blocked), json.dumps(blocked)


@pytest.mark.parametrize(
    ("name", "chart", "word"), [("project", 2, "microbatch"), ("schedule", 1, "GPUs"), ("sweep", 0, "MFU")]
)
def test_bars_and_blocks_answer_to_the_mouse(
    browser: Browser, pages: dict[str, Path], name: str, chart: int, word: str
) -> None:
    """The middle of the first value of the chart at that place."""
    browser.open(pages[name])
    script = (
        "const canvas = document.querySelectorAll('.canvas')[arguments[0]]; canvas.id = 'tried';"
        "const chart = echarts.getInstanceByDom(canvas); const series = chart.getOption().series;"
        "const index = series.findIndex((one) => one.name === 'forward'); const at = Math.max(index, 0);"
        "const shape = chart.getModel().getSeriesByIndex(at).getData().getItemGraphicEl(0).getBoundingRect();"
        "const element = chart.getModel().getSeriesByIndex(at).getData().getItemGraphicEl(0);"
        "const [x, y] = element.transformCoordToGlobal(shape.x + shape.width / 2, shape.y + shape.height / 2); return [x, y];"
    )
    x, y = browser.run(script, chart)
    browser.hover("#tried", x, y)
    browser.wait(lambda: browser.texts(".tooltip"))
    assert word in browser.texts(".tooltip")[0]
