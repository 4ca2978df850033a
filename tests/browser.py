"""A real browser, driven over W3C WebDriver with nothing but the standard library."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # of the standard
_STRAIGHT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the machine uses


@dataclass(frozen=True, kw_only=True)
class Browser:
    """One window."""

    address: str  # of the session

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a local page anew."""
        self.ask("POST", "/url", url="about:blank")
        self.ask("POST", "/url", url=page.as_uri() + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns; ``arguments[0]`` and so on are these."""
        return self.ask("POST", "/execute/sync", script=script, args=list(arguments))

    def click(self, selector: str) -> None:
        """Click as a person does: what is hidden or covered cannot be clicked."""
        found = self.ask("POST", "/element", using="css selector", value=selector)
        self.ask("POST", f"/element/{found[_ELEMENT]}/click")

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Make the page this many CSS pixels large, as on a phone with ``mobile``."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.developer("Emulation.setDeviceMetricsOverride", **size)

    def developer(self, command: str, **parameters: Any) -> Any:
        """A command of Chromium's developer tools."""
        return self.ask("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        shot = self.developer("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """One command of the protocol; RuntimeError with the browser's own words where it fails."""
        return _ask(method, self.address + path, body)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A headless window whose profile lies in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "driver.log").open("wb") as log:
        driver = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=log, stderr=log)
    try:
        root = f"http://127.0.0.1:{port}"
        _wait_until_ready(root, driver)
        options = {
            "binary": CHROMIUM,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"],
        }
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        session = f"{root}/session/{_ask('POST', f'{root}/session', wanted)['sessionId']}"
        try:
            yield Browser(address=session)
        finally:
            _ask("DELETE", session, {})
    finally:
        driver.terminate()
        driver.wait(timeout=20)


def _wait_until_ready(root: str, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert driver.poll() is None and time.monotonic() < deadline, "chromedriver does not start"
        try:
            if _ask("GET", f"{root}/status", {})["ready"]:
                return
        except OSError:
            time.sleep(0.05)


def _ask(method: str, address: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode() if method == "POST" else None
    request = urllib.request.Request(address, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with _STRAIGHT.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error)["value"]["message"].splitlines()[0]) from None
