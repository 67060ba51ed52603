"""The HTML around the content of a page: styles, scripts and data in one file."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from importlib.resources import files

from vtrain_sim.report.page.document import document, json_text
from vtrain_sim.results import Result

# In the order in which they are run.
_LIBRARY = "echarts/echarts.js"
_SCRIPTS = ("elements.js", "numbers.js", "table.js", "chart.js", "bars.js", "points.js", "gantt.js", "page.js")
_KNOBS = "serve.js"
_NO_SCRIPTS = "This page draws its charts and tables with scripts, which are turned off here."


def page(result: Result) -> str:
    """A whole page that needs no other file and sends no request."""
    content = document(result)
    scripts = [_asset(_LIBRARY), _scripts(), "vtrain.start();"]
    head = f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">'
    # Data, which no browser runs.
    data = f'<script type="application/json" id="data">{json_text(content)}</script>'
    title = f"{content['title']}: {content['kind']}"
    return _html(title, head, data + "".join(f"<script>{script}</script>" for script in scripts))


def served() -> tuple[str, str]:
    """The page that asks a local server for its content, and its Content-Security-Policy."""
    scripts = [_asset(_LIBRARY), _scripts(), _asset(_KNOBS)]
    policy = _policy(scripts, "connect-src 'self'", "frame-ancestors 'none'")
    return _html("vtrain", "", "".join(f"<script>{script}</script>" for script in scripts)), policy


def _html(title: str, head: str, body: str) -> str:
    # An empty picture: browsers otherwise ask the server for one.
    icon = '<link rel="icon" href="data:,">'
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    scheme = '<meta name="color-scheme" content="light dark">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{meta}{head}{scheme}{icon}<title>{escape(title)}</title>'
        f"<style>{_asset('page.css')}</style></head>\n"
        f"<body><noscript><p>{_NO_SCRIPTS}</p></noscript>{body}</body></html>\n"
    )


@cache
def _asset(name: str) -> str:
    return (files("vtrain_sim.report.page") / "assets" / name).read_text(encoding="utf-8")


@cache
def _scripts() -> str:
    return "\n".join(map(_asset, _SCRIPTS))


def _policy(scripts: list[str], *more: str) -> str:
    """A Content-Security-Policy that lets these scripts run and no other, and nothing be loaded; more: directives."""
    sources = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    always = ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src {sources}")
    return "; ".join((*always, "base-uri 'none'", "form-action 'none'", *more))


@cache
def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
