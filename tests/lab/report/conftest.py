"""The folder of a training run, and a browser."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from PIL import Image


@pytest.fixture
def run_folder(tmp_path):
    """`make(name)`: a run of 60 iterations that was continued from 50, with an alarm and one validation image."""

    def make(name="run <b> & 1"):
        folder = tmp_path / "experiments" / name
        images = folder / "validation_images" / "set" / "image"
        images.mkdir(parents=True)
        for number, kind in enumerate(("lr", "before_20", "now_60", "gt", "map_60")):
            Image.new("L" if "map" in kind else "RGB", (64, 48), 40 * number).save(images / f"{kind}.png")
        (images / "now_61.png").write_bytes(b"half a file")
        start = {"total": 80, "losses": {"l1": "L1Loss()"}, "critics": {"l1": ["c, official, 0123"]}, "versions": {}}
        rows = [{"start": 0, **start}]
        rows += [{"iter": i, "values": {"losses/l_l1": 1 / i, "metrics/set/psnr": 20 + i / 10}} for i in range(1, 56)]
        rows += [{"start": 50, **start}, {"iter": 60, "values": {"losses/l_l1": None}}]
        rows += [{"iter": 60, "alarm": "iteration 60: <i>odd</i>", "time": 1e9}]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (folder / "run.yml").write_text("name: run\nscale: 4\n")
        return folder

    return make


@pytest.fixture
def browser():
    """Chromium without a window; skips where it or its driver is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip("chromium and chromedriver (Debian: chromium, chromium-driver) are missing")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.page_load_strategy = "none"  # the charts are waited for below
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

    def show(path, width):
        """The page, with all charts drawn at this width."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        if opened.current_url != path.as_uri():
            opened.get(path.as_uri())
        drawn = """
            const charts = [...document.querySelectorAll(".chart svg.main-svg")];
            return location.href === arguments[0] && document.body?.dataset.drawn === "yes"
                && charts.every(chart => chart.clientWidth <= document.documentElement.clientWidth)
        """
        end = time.monotonic() + 300
        while not opened.execute_script(drawn, path.as_uri()):
            assert time.monotonic() < end, opened.get_log("browser")
            time.sleep(0.05)
        return opened

    yield show
    opened.quit()
