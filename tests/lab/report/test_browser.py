"""Both reports in a real browser: no console errors, no requests, charts drawn, sliders that move, two widths."""

from __future__ import annotations

from sr_perceptual_loss.lab.evaluation.agreement import evaluate_scores
from sr_perceptual_loss.lab.report.evaluation_page import write_evaluation_report
from sr_perceptual_loss.lab.report.run import read_run
from sr_perceptual_loss.lab.report.run_page import write_run_report


def check(page):
    """Nothing wider than the screen, every chart drawn at its size, and the first slider follows the pointer."""
    from selenium.webdriver.common.action_chains import ActionChains

    width = page.execute_script("return document.documentElement.clientWidth")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    charts = page.execute_script("return [...document.querySelectorAll('.chart svg.main-svg')].map(s => s.clientWidth)")
    assert len(charts) >= page.execute_script("return document.querySelectorAll('.chart').length") > 0
    assert all(150 < drawn <= width for drawn in charts)
    slider = page.find_element("css selector", ".stack input")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    place = ActionChains(page).move_to_element(slider).click_and_hold()
    place.move_by_offset(-slider.size["width"] // 4, 0).release().perform()
    cut = "return getComputedStyle(arguments[0].closest('.pair').querySelectorAll('img')[1]).clipPath"
    left = float(page.execute_script(cut, slider).split()[-1].rstrip("%)"))
    assert 20 <= left <= 30


def test_reports_in_chromium(browser, run_folder, labels, score, tmp_path):
    write_run_report(tmp_path / "run.html", [read_run(run_folder())])
    result = evaluate_scores(labels, score(labels), bootstrap=5)
    write_evaluation_report(tmp_path / "two.html", {"a": result, "b": result}, {"a": {}, "b": {}}, worst=1)
    for file in ("run.html", "two.html"):
        for width in (1280, 390):
            page = browser(tmp_path / file, width)
            check(page)
        loaded = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert all(url.startswith(("data:", "blob:")) for url in loaded)
    assert page.get_log("browser") == []
