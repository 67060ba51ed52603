"""The documentation as a site: what checks it notices faults, and the built site works in a browser.

`make site` builds it; where it has not, what needs it is skipped.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from simulator.page.browser import Browser
from simulator.page.conftest import browser as browser
from support.built_site import faults
from support.documentation import ROOT

SITE = ROOT / "site"
# Elements with formulas, one that is wide, and all that the page says.
_FORMULAS = "return [...document.querySelectorAll('math')].filter((m) => m.getBoundingClientRect().height > 5).length"
_SIDEWAYS = "return document.documentElement.scrollWidth"

built = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="make site has not built site/")


# -- the checks -----------------------------------------------------------------------------


def write(site: Path, **pages: str) -> Path:
    site.mkdir(exist_ok=True)
    (site / "style.css").write_text("body { background: url(here.png) }")
    (site / "here.png").write_bytes(b"")
    for name, text in pages.items():
        (site / f"{name}.html").write_text(text)
    return site


def test_a_sound_site_has_no_faults(tmp_path: Path) -> None:
    page = (
        '<link rel="stylesheet" href="style.css"><link rel="canonical" href="https://example.org/">'
        '<img src="here.png"><a href="other.html#there">a</a><a href="#top">b</a><h1 id="top">c</h1>'
        '<a href="https://example.org/gone">d</a><a href=".">e</a>'
    )
    assert faults(write(tmp_path, index=page, other='<h2 id="there">f</h2>')) == []


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="gone.html">a</a>', "gone.html leads nowhere"),
        ('<a href="#gone">a</a>', "index.html has no gone"),
        ('<a href="index.html#gone">a</a>', "index.html has no gone"),
        ('<img src="gone.png">', "gone.png is not there"),
        ('<script src="https://example.org/a.js"></script>', "https://example.org/a.js is of another host"),
        ('<link rel="stylesheet" href="//example.org/a.css">', "//example.org/a.css is of another host"),
        ('<p style="background: url(https://example.org/a.png)">', "https://example.org/a.png is of another host"),
    ],
)
def test_a_fault_is_noticed(tmp_path: Path, page: str, fault: str) -> None:
    (found,) = faults(write(tmp_path, index=page))
    assert found.endswith(fault)


def test_a_font_of_another_host_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, index="a")
    (tmp_path / "style.css").write_text("@import 'https://example.org/font.css';")
    assert faults(tmp_path) == ["style.css: https://example.org/font.css is of another host"]


def test_a_site_without_pages_is_a_fault(tmp_path: Path) -> None:
    assert faults(tmp_path) == [f"{tmp_path} has no page"]


# -- what is done to pages ------------------------------------------------------------------


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "website" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equations_become_mathml(hooks: ModuleType) -> None:
    pytest.importorskip("latex2mathml", reason="of requirements-docs.txt")
    page = hooks.on_page_content('<span class="arithmatex">\\(a &lt; b_1\\)</span>')
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">' in page
    with pytest.raises(ValueError, match="unknowncommand"):
        hooks.on_page_content('<span class="arithmatex">\\(\\unknowncommand{a}\\)</span>')


def test_links_show_titles(hooks: ModuleType) -> None:
    config = {"nav": [{"Home": "README.md"}, {"Part": [{"All inputs": "inputs.md"}]}]}
    shown = hooks.on_page_markdown("[inputs.md](inputs.md#a) and [words](inputs.md)", config=config)
    assert shown == "[All inputs](inputs.md#a) and [words](inputs.md)"


def test_regular_expressions_stay_as_they_are(hooks: ModuleType) -> None:
    text = "`(?<![a-z])x`"
    assert "<![" not in hooks.on_page_markdown(text, config={"nav": []})
    assert hooks.on_page_content(hooks.on_page_markdown(text, config={"nav": []})) == "`(?&lt;![a-z])x`"


# -- the built site -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def show(browser: Browser, address: str, width: int = 1200, scheme: str = "light") -> None:
    browser.open(address, width=width, scheme=scheme, ready="article")


@built
def test_the_built_site_is_sound() -> None:
    assert faults(SITE) == []
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}
    assert pages <= {path.stem for path in SITE.glob("*.html")}


@built
@pytest.mark.parametrize("page", sorted(path.stem for path in (ROOT / "docs").glob("*.md")))
def test_a_page_asks_nobody_else_and_fits_a_phone(browser: Browser, address: str, page: str) -> None:
    name = "index" if page == "README" else page
    show(browser, f"{address}/{name}.html")
    assert browser.messages() == []
    asked = [url for url in browser.requests() if not url.startswith((address, "data:", "blob:", "about:"))]
    assert asked == []
    assert browser.run(_SIDEWAYS) <= 1200
    show(browser, f"{address}/{name}.html", width=360, scheme="dark")
    assert browser.run(_SIDEWAYS) <= 360


@built
def test_equations_are_drawn(browser: Browser, address: str) -> None:
    show(browser, f"{address}/how-it-works.html")
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    assert browser.run(_FORMULAS) >= text.count("$$") / 2 + 20
    assert "$" not in browser.run(
        "return [...document.querySelectorAll('article p, article li')].map((p) => p.innerText).join('')"
    )


@built
def test_examples_of_docstrings_are_code() -> None:
    page = (SITE / "python-reference.html").read_text()
    # Pygments marks each prompt.
    assert page.count('<span class="gp">&gt;&gt;&gt; ') > 40
    assert "<blockquote>" not in page


@built
def test_the_search_finds_a_page(browser: Browser, address: str) -> None:
    show(browser, f"{address}/index.html")
    browser.run("document.querySelector('label[for=__search]').click()")
    browser.type(".md-search__input", "straggler")
    browser.wait(lambda: browser.texts(".md-search-result__item"))
    assert any("How it works" in text for text in browser.texts(".md-search-result__item"))
