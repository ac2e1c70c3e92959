"""A real headless Chromium over its DevTools protocol: one page, what it logs and asks the network for."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


def chromium() -> str | None:
    """The browser's program, if there is one."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


class Browser:
    """A page of a browser of its own; a context manager. `logs` are errors and warnings, `asked` the URLs fetched."""

    def __init__(self, folder: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        program = chromium()
        assert program is not None, "no chromium"
        self.logs: list[str] = []
        self.asked: list[str] = []
        self._profile = folder / "chromium"
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self._profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._connect()
        except BaseException:
            self._process.kill()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.size(width, height)
        self.send("Emulation.setEmulatedMedia", features=[_scheme(dark)])

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """Another size of the page."""
        scale = 2 if phone else 1
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def dark(self, wanted: bool) -> None:
        """Whether the person wants dark pages."""
        self.send("Emulation.setEmulatedMedia", features=[_scheme(wanted)])

    def open(self, url: str) -> None:
        """Go there; the page loads on."""
        self.send("Page.navigate", url=url)

    def ask(self, code: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise; AssertionError when it throws."""
        answer = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def eventually(self, code: str, holds: Callable[[Any], bool] = bool) -> Any:
        """The expression's value once it holds; AssertionError with the last one."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
            if "exceptionDetails" not in answer and holds(answer["result"].get("value")):
                return answer["result"].get("value")
            assert time.monotonic() < deadline, f"{code}: {answer}; {self.logs}"
            time.sleep(0.05)

    def press(self, key: str, shift: bool = False) -> None:
        """A key, by its DOM name."""
        code = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "Escape": 27, "Enter": 13}[key]
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=8 * shift
            )

    def picture(self, path: Path, full: bool = True) -> None:
        """What the page looks like, as PNG."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(answer["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol and its result."""
        self._number += 1
        number = self._number
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _note(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.logs.append(f"console: {about['args']}")
            case "Runtime.exceptionThrown":
                self.logs.append(f"exception: {about['exceptionDetails']}")
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.logs.append(f"log: {about['entry']['text']} {about['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.asked.append(about["request"]["url"])
            case "Network.webSocketCreated":
                self.asked.append(about["url"])
            case _:
                pass

    def _connect(self) -> None:
        from websockets.sync.client import connect

        self._number = 0
        port_file = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE_S
        while not (port_file.exists() and len(port_file.read_text().splitlines()) == 2):
            assert time.monotonic() < deadline and self._process.poll() is None, "chromium did not start"
            time.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_S) as answer:
            pages = [one for one in json.load(answer) if one["type"] == "page"]
        self._stack = contextlib.ExitStack()
        link = connect(pages[0]["webSocketDebuggerUrl"], max_size=None, ping_interval=None, proxy=None)
        self._socket = self._stack.enter_context(link)


def _scheme(dark: bool) -> dict[str, str]:
    return {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
