"""One tab of a real browser, and everything its elements ever showed. Knows no server."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from until import until

RECORDER = Path(__file__).with_name("recorder.js").read_text(encoding="utf-8")
ARTIFACTS = Path(__file__).parents[1] / "artifacts"


class Page:
    """A window at `url`; the texts of the elements `watch` selects are recorded from the start.

    `script` runs in the page before any other.
    """

    def __init__(self, driver: Chrome, url: str, watch: tuple[str, ...], script: str = "") -> None:
        driver.switch_to.new_window("window")
        self._driver = driver
        self._handle = driver.current_window_handle
        driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument",
            {"source": script + RECORDER.replace("WATCHED", json.dumps(watch))},
        )
        driver.get(url)
        self.find("#react-entry-point :not(._dash-loading)")

    @property
    def open(self) -> bool:
        return self._handle in self._driver.window_handles

    @property
    def posted(self) -> list[str]:
        """The outputs of the callbacks that the page sent by HTTP, in order."""
        return self.run("return window.posted")

    @property
    def opened(self) -> list[str]:
        """The workers and sockets that the page opened."""
        return self.run("return window.opened")

    @property
    def lost(self) -> list[str]:
        """The reasons that the page was given when it lost its connection, in order."""
        return self.run("return window.lost")

    @property
    def config(self) -> dict[str, object]:
        """What the server told the page about itself."""
        return json.loads(self.run("return document.querySelector('#_dash-config').textContent"))

    def run(self, script: str, *args: object):
        self._show()
        return self._driver.execute_script(script, *args)

    def find(self, selector: str) -> WebElement:
        self._show()
        return until(
            lambda: self._driver.find_elements(By.CSS_SELECTOR, selector),
            lambda: f"{selector} in the page:\n{self._driver.page_source}",
        )[0]

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def type(self, selector: str, text: str) -> None:
        self.find(selector).send_keys(text)

    def choose(self, dropdown: str, option: str) -> None:
        """Select `option` of a `dcc.Dropdown`."""
        self.click(dropdown)
        self.find(".dash-dropdown-option")
        options = self._driver.find_elements(By.CSS_SELECTOR, ".dash-dropdown-option")
        next(each for each in options if each.text == option).click()

    def seen(self, selector: str) -> list[str]:
        """Every text that the watched element took, in order, without the empty ones."""
        return [text for text in self.run("return window.seen[arguments[0]]", selector) if text]

    def wait(
        self, selector: str, enough: Callable[[list[str]], object], timeout: float = 10
    ) -> list[str]:
        """Wait until what `selector` has shown so far is `enough`, and return it."""
        until(
            lambda: enough(self.seen(selector)),
            lambda: f"{selector} has shown {self.seen(selector)}",
            timeout,
        )
        return self.seen(selector)

    def wait_for(self, selector: str, text: str, timeout: float = 10) -> list[str]:
        """Wait until `selector` shows `text`, and return all that it has shown."""
        return self.wait(selector, lambda seen: seen[-1:] == [text], timeout)

    def rests(self, selector: str, seconds: float) -> str | None:
        """What `selector` shows, if that stays the same for so many seconds."""
        before = self.seen(selector)
        time.sleep(seconds)
        return before[-1] if self.seen(selector) == before else None

    def screenshot(self, name: str) -> None:
        """Leave a picture in tests/artifacts/ for a human to look at."""
        ARTIFACTS.mkdir(exist_ok=True)
        self._show()
        self._driver.save_screenshot(str(ARTIFACTS / f"{name}.png"))

    def reload(self) -> None:
        """Load the page again, as a user does; the records begin anew."""
        self._show()
        self._driver.refresh()

    def leave(self, url: str) -> None:
        """Go to another page in this tab, as a user does who follows a link."""
        self._show()
        self._driver.get(url)

    def back(self) -> None:
        """Return to this page; the browser may have kept it as it was."""
        self._show()
        self._driver.back()

    def crash(self) -> None:
        """End the process that shows the tab, and all that it did besides."""
        self._show()
        with pytest.raises(WebDriverException, match="tab crashed"):
            self._driver.execute_cdp_cmd("Page.crash", {})

    def close(self) -> None:
        """Close the tab, as a user does."""
        self._show()
        self._driver.close()
        self._driver.switch_to.window(self._driver.window_handles[0])

    def _show(self) -> None:
        if self._driver.current_window_handle != self._handle:
            self._driver.switch_to.window(self._handle)
