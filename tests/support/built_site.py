"""Checks a built site: every link, picture and anchor is there, and no page asks another host for anything.

``python -m support.built_site ../site`` prints what is wrong; the exit code is 1 then. Links that a reader follows to
other hosts are not asked for.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser loads by itself, by element: the attributes that say it.
_LOADED = {
    "img": ("src",),
    "script": ("src",),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "link": ("href",),
}
# Of `link`, those that are only said.
_SAID = {"canonical", "prev", "next", "author", "license"}
_IN_STYLE = re.compile(r"""(?:url\(|@import\s+)\s*["']?([^"')\s]+)""")


@dataclass
class Page(HTMLParser):
    """What one page has (ids) and refers to; loaded: what a browser fetches without being asked."""

    text: str
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down the ids and references of an element."""
        said = {name: value or "" for name, value in attrs}
        self.ids |= {said[name] for name in ("id", "name") if name in said}
        if tag == "a" and "href" in said:
            self.links.append(said["href"])
        if tag == "link" and said.get("rel") in _SAID:
            return
        self.loaded += [said[name].split()[0] for name in _LOADED.get(tag, ()) if said.get(name)]
        self.loaded += _IN_STYLE.findall(said.get("style", ""))


def faults(site: Path) -> list[str]:
    """A sentence for each link that leads nowhere and each thing that is loaded from elsewhere."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = [] if pages else [f"{site} has no page"]
    for path, page in pages.items():
        where = path.relative_to(site)
        found += [f"{where}: {fault}" for link in page.links for fault in _followed(link, path, site, pages)]
        found += [f"{where}: {fault}" for link in page.loaded for fault in _fetched(link, path, site)]
    for path in sorted(site.rglob("*.css")):
        for link in _IN_STYLE.findall(path.read_text()):
            found += [f"{path.relative_to(site)}: {fault}" for fault in _fetched(link, path, site)]
    return found


def _followed(link: str, path: Path, site: Path, pages: dict[Path, Page]) -> list[str]:
    """What is wrong with a link of a page to a page."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return []
    target = _target(parts.path, path, site)
    if not target.exists():
        return [f"{link} leads nowhere"]
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].ids:
        return [f"{link}: {target.name} has no {anchor}"]
    return []


def _fetched(link: str, path: Path, site: Path) -> list[str]:
    """What is wrong with something that a browser loads."""
    parts = urlsplit(link)
    if parts.scheme == "data" or link.startswith("#"):
        return []
    if parts.scheme or parts.netloc:
        return [f"{link} is of another host"]
    return [] if _target(parts.path, path, site).exists() else [f"{link} is not there"]


def _target(link: str, path: Path, site: Path) -> Path:
    if not link:
        return path
    target = (site / link.lstrip("/") if link.startswith("/") else path.parent / unquote(link)).resolve()
    return target / "index.html" if target.is_dir() else target


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]).resolve())
    print("\n".join(wrong) or "every link of the site leads somewhere; nothing is loaded from elsewhere")
    sys.exit(bool(wrong))
