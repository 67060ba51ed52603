"""The local page: the answers of the command, for this machine alone."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest
from typer.testing import CliRunner

import vtrain as vt
from simulator.page.browser import Browser
from vtrain_sim.api import serve as api
from vtrain_sim.api.knobs import knobs, read_setting, turn
from vtrain_sim.commands import sim

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of its own, as the command starts it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "vtrain_sim.commands.sim", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        yield re.match(r"(http://127\.0\.0\.1:\d+)/", line)[1]  # type: ignore[index]
        server.terminate()
        server.wait(10)


def get(address: str, method: str = "GET", **headers: str) -> tuple[int, str, HTTPResponse]:
    request = urllib.request.Request(address, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode(), response
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error  # type: ignore[return-value]


def test_every_knob_as_it_stands_is_a_projection() -> None:
    page = turn({})
    assert page["figures"][0]["label"] == "Iteration time"
    (_, command), (_, flags) = page["texts"]
    assert command.startswith("vtrain-sim project --model gpt3-13b --cluster dgx-a100-80gb --num-gpus 64 ")
    assert "--tensor-model-parallel-size 2" in flags


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"vpp": "2", "pp": "4", "recompute": "full", "precision": "fp16", "price": "2.5"},
        {"model": "mixtral-8x7b", "cluster": "dgx-h100", "ep": "8", "tp": "1", "sp": "", "precision": "fp8"},
        {"schedule": "zb-h1", "overlap_grad_reduce": "", "distributed_optimizer": "", "tokens": ""},
    ],
)
def test_the_page_says_what_its_command_prints(values: dict[str, str]) -> None:
    setting = read_setting(values)
    words = setting.command().split()
    done = CliRunner().invoke(sim.app, [*words[1:], "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    page = turn(values)
    (time, memory) = page["sections"]
    columns = {column["name"]: column for column in time["table"]["columns"]}
    total = sum(columns["time_s"]["values"]) / columns["time_s"]["factor"]
    assert total == pytest.approx(printed["iteration_time_s"], rel=1e-4)
    assert memory["table"]["count"] == len(printed["memory"]["stages"])
    figures = {figure["label"]: figure["text"] for figure in page["figures"]}
    assert figures["MFU"] == f"{printed['mfu']:.1%}"
    if "cost_usd" in printed:
        assert figures["Cost"] == f"${printed['cost_usd']:,.0f}"


@pytest.mark.parametrize(
    "values", [{"tp": "3"}, {"gbs": "100"}, {"pp": "7", "gpus": "112"}, {"vpp": "3"}, {"ep": "2"}, {"tokens": "-1"}]
)
def test_errors_are_the_sentence_of_the_command(values: dict[str, str]) -> None:
    done = CliRunner().invoke(sim.app, read_setting(values).command().split()[1:])
    with pytest.raises(vt.UserError) as refused:
        turn(values)
    assert str(refused.value) == str(done.exception)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"model": "/etc/passwd"}, "--model is '/etc/passwd': this page has"),
        ({"cluster": "my.toml"}, "this page has"),
        ({"tp": "-1"}, "whole number"),
        ({"gpus": "9" * 30}, "goes up to"),
        ({"gbs": "²"}, "whole number"),
        ({"gbs": "9" * 5000}, "whole number"),
        ({"tokens": "many"}, "must be a number"),
        ({"tokens": "nan"}, "--train-tokens"),
        ({"sp": "perhaps"}, "on, or empty"),
        ({"colour": "red"}, "no knob"),
    ],
)
def test_values_that_no_knob_has_are_refused(values: dict[str, str], word: str) -> None:
    """No file is read, and nothing is computed for ever."""
    with pytest.raises(vt.UserError, match=re.escape(word)):
        turn(values)


def test_it_is_for_this_machine_alone(address: str) -> None:
    port = urllib.parse.urlsplit(address).port
    status, body, response = get(address)
    assert status == 200
    assert "<!doctype html>" in body
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    for host in ("example.com", f"example.com:{port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert get(address, Host=host)[0] == 403, host
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert get(address, Host=host)[0] == 200, host
    assert get(f"{address}/project", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert get(f"{address}/project", method)[0] == 405
    assert get(f"{address}/../../etc/passwd")[0] == 404
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for other in others:
        if not other.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((other, port), timeout=2)


def test_answers_are_strict_json(address: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for path in ("/knobs", "/project", "/project?tp=4", "/passes", "/project?tp=3"):
        status, body, response = get(address + path)
        assert status == 200
        answer = json.loads(body, parse_constant=refuse)
        assert response.headers["Content-Type"] == "application/json"
        assert ("error" in answer) == path.endswith("=3")
    assert {knob["name"] for knob in json.loads(get(address + "/knobs")[1])["knobs"]} == {knob.name for knob in knobs()}


def test_a_port_in_use_is_a_sentence() -> None:
    with api.listen(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(vt.UserError, match=f"cannot listen on port {port}"):
            api.listen(port)


@pytest.mark.parametrize("library", ["starlette.applications", "uvicorn"])
def test_missing_libraries_are_a_sentence(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    done = CliRunner().invoke(sim.app, ["serve", "--port", "0"])
    assert isinstance(done.exception, vt.UserError)
    assert "pip install 'vtrain[serve]'" in str(done.exception)
    assert done.output == ""


# -- in a browser ---------------------------------------------------------------------------


def figures(browser: Browser) -> dict[str, str]:
    labels, texts = browser.texts("#content .figure dt"), browser.texts("#content .figure .value")
    return dict(zip(labels, texts, strict=True))


def test_turning_a_knob_changes_the_answer(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.wait(lambda: len(browser.texts("#content section")) >= 5)
    before = figures(browser)
    assert all(count > 3 for count in browser.colours())
    (button,) = [b for b in browser.all(".stepper button") if b.get_attribute("aria-label") == "Double tp"]
    button.click()
    browser.wait(lambda: figures(browser).get("Iteration time") != before["Iteration time"])
    assert browser.run("return document.getElementById('knob-tp').value") == "4"
    assert "tp=4" in browser.driver.current_url
    browser.wait(lambda: "--tensor-model-parallel-size 4" in browser.texts("#commands pre")[0])
    browser.run(
        "const s = document.getElementById('knob-model'); s.value = 'llama3-8b';"
        "s.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    browser.wait(lambda: browser.texts("h1") == ["llama3-8b on 64 GPUs"])
    assert browser.messages() == []
    assert all(url.startswith((address, "data:")) for url in browser.requests())


def test_an_error_is_shown_and_goes_away(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.wait(lambda: browser.texts("#content section"))
    browser.type("#knob-gpus", "65")
    browser.wait(lambda: browser.all(".alert")[0].is_displayed())
    assert browser.texts(".alert") == [json.loads(get(f"{address}/project?gpus=65")[1])["error"]]
    assert browser.all("#content.stale")
    browser.type("#knob-gpus", "128")
    browser.wait(lambda: not browser.all(".alert")[0].is_displayed())
    assert browser.texts("h1") == ["gpt3-13b on 128 GPUs"]
    assert browser.messages() == []


def test_a_setting_has_an_address_and_fits_a_phone(browser: Browser, address: str) -> None:
    browser.open(f"{address}/?model=llama3-8b&tp=1&sp=&cluster=dgx-h100", width=360, scheme="dark")
    browser.wait(lambda: browser.texts("#content section"))
    assert browser.texts("h1") == ["llama3-8b on 64 GPUs"]
    assert browser.run("return document.getElementById('knob-sp').checked") is False
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    assert browser.texts(".glance dt")[0] == "Iteration time"
    assert browser.all(".glance")[0].is_displayed()
    browser.run(
        "const s = document.getElementById('knob-pp'); s.value = 7; s.dispatchEvent(new Event('input', { bubbles: true }))"
    )
    browser.wait(lambda: browser.texts(".glance dt") == ["No projection"])
    assert browser.texts(".glance dd") == browser.texts(".alert") != [""]
    assert browser.run("return document.documentElement.scrollWidth") <= 360
