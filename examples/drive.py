"""Drives a session with Playwright and saves a screenshot of its page.

    pip install playwright==1.62.0
    python drive.py <wsEndpoint> <token> [screenshot.png]

or with CAMOFLEET_WS_ENDPOINT and CAMOFLEET_TOKEN in the environment.
"""

import os
import sys

from playwright.sync_api import sync_playwright


def main() -> None:
    given = sys.argv[1:4]
    defaults = [os.environ.get("CAMOFLEET_WS_ENDPOINT"), os.environ.get("CAMOFLEET_TOKEN"), "page.png"]
    endpoint, token, screenshot = given + defaults[len(given) :]
    if not endpoint or not token:
        sys.exit("usage: python drive.py <wsEndpoint> <token> [screenshot.png]")

    with sync_playwright() as playwright:
        browser = playwright.firefox.connect(f"{endpoint}?page=open", headers={"Authorization": f"Bearer {token}"})
        try:
            # The session's initial page (`page=open`), which the live view shows. A new context takes longer.
            page = browser.contexts[0].pages[0]
            print(f"Firefox {browser.version} shows: {page.title()} ({page.url[:60]})")
            page.screenshot(path=screenshot)
            print(f"saved {screenshot}")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
