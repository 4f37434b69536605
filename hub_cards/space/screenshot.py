"""Opens the apps in a real browser: for their pictures in README and guide, and for their tests.

    python -m polyvid.hub_cards.space.screenshot outputs/demo/space hub_cards/space/screenshot.png
    python -m polyvid.hub_cards.space.screenshot my_videos hub_cards/docs/own_videos.png --query "kipande cha pizza"

needs Chromium with its driver (`apt-get install chromium chromium-driver`), selenium, and a font with Chinese.
"""

import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
START_SECONDS = 600  # it ends as soon as the app answers or stops


def find_browser() -> tuple[str, str] | None:
    """The programs of Chromium (or Chrome) and of its driver, or None where either is not installed."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def serve(folder: Path, command: Sequence[str] = ("app.py",), seconds: float = START_SECONDS) -> Iterator[str]:
    """Runs the app of a built folder; the address is that of its page.

    Args:
        folder: made by `build.py`.
        command: arguments of Python in this folder.
        seconds: to wait for the page.

    Raises:
        RuntimeError: if the app stops or does not answer; with what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    log = folder.parent / f"{folder.name}.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + seconds
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The demo app does not answer:\n{log.read_text()}")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.unlink()


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


@contextmanager
def open_browser(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A headless browser as selenium's `WebDriver`, its page `width` CSS pixels wide, phones included.

    Raises:
        FileNotFoundError: if Chromium or its driver is missing.
    """
    from selenium import webdriver

    found = find_browser()
    if found is None:
        raise FileNotFoundError("No Chromium with chromedriver: apt-get install chromium chromium-driver.")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    # No sandbox: containers run as root. No /dev/shm: there it is small.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars", "disable-gpu"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=found[1]))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver
    finally:
        driver.quit()


def wait_for(driver: Any, script: str, seconds: float = 300) -> Any:
    """What a script returns as soon as that is true.

    Raises:
        TimeoutError: if it does not become true; with the text of the page.
    """
    deadline = time.monotonic() + seconds
    while not (value := driver.execute_script(script)):
        if time.monotonic() > deadline:
            text = driver.execute_script("return document.body.innerText")
            raise TimeoutError(f"Still false after {seconds} s: {script}\n{text}")
        time.sleep(0.1)
    return value


TYPED = "document.querySelector('#query textarea, #query input')"
ALL_PLAY = "return [...document.querySelectorAll('#by-words video')].every(v => v.readyState >= 2)"
SHOWN = "return document.querySelectorAll('#by-words .clip').length > 0 && !document.querySelector('.generating')"


def screenshot(
    folder: Annotated[
        Path,
        typer.Argument(help="Of the built app, such as outputs/demo/space; with --query, of videos searched before."),
    ],
    picture: Annotated[Path, typer.Argument(help="PNG to write.")],
    model: Annotated[str, typer.Option(help="none, mp, mmp, or all for side by side.")] = "all",
    width: Annotated[int, typer.Option(help="Of the page in pixels; a phone has 390.")] = 1280,
    query: Annotated[str | None, typer.Option(help="Take polyvid app over a folder of videos, and type this.")] = None,
) -> None:
    """Take a picture of the whole page, as it is after the first example, or after a query."""
    if query is not None:
        folder = folder.resolve()
        with serve(folder.parent, ("-m", "polyvid", "app", folder.name)) as address, open_browser(width) as driver:
            driver.get(address)
            wait_for(driver, f"return {TYPED} !== null")
            driver.find_element("css selector", "#query textarea, #query input").send_keys(query, "\n")
            wait_for(driver, SHOWN)
            _take(driver, picture, width)
        return
    with serve(folder) as address, open_browser(width) as driver:
        driver.get(address)
        wait_for(driver, SHOWN)
        driver.execute_script(f"document.querySelector('#model input[value={model}]').click()")
        models = 3 if model == "all" else 1
        wait_for(driver, f"return document.querySelectorAll('#by-words .clips').length == {models}")
        if models == 1:
            wait_for(driver, f"return document.querySelector('#by-words .clips').dataset.model == '{model}'")
        wait_for(driver, ALL_PLAY)
        _take(driver, picture, width)


def _take(driver: Any, picture: Path, width: int) -> None:
    time.sleep(1)  # animations of the page itself
    height = driver.execute_script("return document.documentElement.scrollHeight")
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(1)
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
    # A palette makes the file a third as large; README and guide load it.
    full = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    full.quantize(palette=full.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(picture, optimize=True)
    print(f"Written to {picture}.")


if __name__ == "__main__":
    typer.run(screenshot)
