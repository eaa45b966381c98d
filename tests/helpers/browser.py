"""Drives the page in a real browser, by keyboard, and prints what it shows as JSON.

    python browser.py URL [FOLDER]

It runs with an interpreter that has selenium, and needs chromium and chromedriver. With a folder, pictures go there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

DONE = "return !document.getElementById('go').disabled && document.getElementById('told').textContent !== ''"
WIDTHS = {"desktop": (1100, 900), "phone": (390, 844)}


def started(width, height, dark):
    options = ChromeOptions()
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        f"window-size={width},{height}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))
    device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    return browser


def texts(browser, selector):
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def drive(browser, url, save):
    """Each model's form is sent by the keyboard as it is filled in; what the page shows then."""
    browser.get(url)
    wait = WebDriverWait(browser, 60)
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "#model option"))
    names = texts(browser, "#model option")
    found = {}
    for place, name in enumerate(names):
        Select(browser.find_element(By.ID, "model")).select_by_index(place)
        box = browser.find_element(By.CSS_SELECTOR, "#fields [id^=field]")
        box.send_keys(Keys.CONTROL, Keys.ENTER)
        wait.until(lambda page: page.execute_script(DONE))
        found[name] = {
            "told": browser.find_element(By.ID, "told").text,
            "bad": bool(browser.find_elements(By.CSS_SELECTOR, "#told.bad")),
            "bars": [text.split("\n") for text in texts(browser, "#result .bar span")],
            "widths": [bar.get_attribute("style") for bar in browser.find_elements(By.CSS_SELECTOR, "#result .bar i")],
            "marks": texts(browser, "#result mark"),
            "texts": texts(browser, "#result .text"),
            "cells": texts(browser, "#result .heat td"),
            "said": [
                element.get_attribute("textContent") for element in browser.find_elements(By.CSS_SELECTOR, ".said")
            ],
            "curl": browser.find_element(By.ID, "curl").get_attribute("textContent"),
            "python": browser.find_element(By.ID, "python").get_attribute("textContent"),
            "overflows": browser.execute_script(
                "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
            ),
        }
        save(browser, name.partition(" ")[0])
    found["log"] = [entry["message"] for entry in browser.get_log("browser")]
    return found


def tabs(browser, url):
    """What the Tab key reaches, in order."""
    browser.get(url)
    WebDriverWait(browser, 60).until(lambda page: page.find_elements(By.CSS_SELECTOR, "#model option"))
    reached = []
    for _ in range(3):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element.get_attribute("id"))
    return reached


def main():
    url, folder = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None
    found = {}
    for place, (width, height) in WIDTHS.items():
        for dark in (False, True):
            browser = started(width, height, dark)

            def save(browser, name, place=place, dark=dark):
                if folder is not None:
                    browser.save_screenshot(str(folder / f"{place}-{'dark' if dark else 'light'}-{name}.png"))

            try:
                shown = drive(browser, url, save)
                shown["background"] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
                shown["tabs"] = tabs(browser, url)
            finally:
                browser.quit()
            found[f"{place} {'dark' if dark else 'light'}"] = shown
    print(json.dumps(found))


if __name__ == "__main__":
    main()
