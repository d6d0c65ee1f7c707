"""Drives a session with Playwright and saves a picture of its page.

    pip install playwright==1.62.0
    python drive.py <wsEndpoint> <token> [picture.png]

or with CAMOFLEET_WS_ENDPOINT and CAMOFLEET_TOKEN in the environment.
"""

import os
import sys

from playwright.sync_api import sync_playwright


def main() -> None:
    given = sys.argv[1:4]
    defaults = [os.environ.get("CAMOFLEET_WS_ENDPOINT"), os.environ.get("CAMOFLEET_TOKEN"), "page.png"]
    endpoint, token, picture = given + defaults[len(given) :]
    if not endpoint or not token:
        sys.exit("usage: python drive.py <wsEndpoint> <token> [picture.png]")

    with sync_playwright() as playwright:
        browser = playwright.firefox.connect(endpoint, headers={"Authorization": f"Bearer {token}"})
        try:
            # The session's own page, which a viewer sees too. A page of a new context would take longer to open.
            page = browser.contexts[0].pages[0]
            print(f"Firefox {browser.version} shows: {page.title()} ({page.url[:60]})")
            page.screenshot(path=picture)
            print(f"saved {picture}")
        finally:
            browser.close()


if __name__ == "__main__":
    main()
