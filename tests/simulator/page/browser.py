"""A headless Chromium, as far as the tests of pages need one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# How many colours the canvas of each chart has.
_COLOURS = """
return [...document.querySelectorAll(".canvas canvas")].map((canvas) => {
  const { width, height } = canvas;
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer);
  return new Set(pixels).size;
});
"""


class Browser:
    """One window; every page starts with no messages and no requests."""

    def __init__(self, chromium: str, driver: str, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))

    def close(self) -> None:
        self.driver.quit()

    def open(self, address: str | Path, width: int = 1200, scheme: str = "light", ready: str = ".page") -> None:
        """Show a page of that width in pixels; scheme: light or dark. ready: what it has once it is there."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setEmulatedMedia", features=features)
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.driver.get("about:blank")
        self.messages()
        self.requests()
        self.driver.get(address.as_uri() if isinstance(address, Path) else address)
        self.wait(lambda: self.run("return document.querySelector(arguments[0]) !== null", ready))

    def command(self, name: str, **parameters: object) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        """Until something is so; fails where it does not become so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the page did not become what the test waits for"
            time.sleep(0.05)

    def messages(self) -> list[str]:
        """What the console says since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def colours(self) -> list[int]:
        """Different colours in each chart: 1 where nothing is drawn."""
        return list(self.run(_COLOURS))

    def all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Texts of elements, also of those that are folded away."""
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map((n) => n.textContent)", selector))

    def type(self, selector: str, text: str) -> None:
        """Replace what an input has."""
        from selenium.webdriver.common.keys import Keys

        (field,) = self.all(selector)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)

    def press(self, *keys: str) -> None:
        """Keys, where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def hover(self, selector: str, x: float, y: float) -> None:
        """Move the mouse to a place in an element, in pixels from its corner."""
        (element,) = self.all(selector)
        self.run("arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' })", element)
        box = self.run("const b = arguments[0].getBoundingClientRect(); return [b.left, b.top]", element)
        for near in (3, 0):
            self.command("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + x + near, y=box[1] + y)
