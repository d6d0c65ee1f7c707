"""Drives a page of a session and prints the results as JSON.

    python drive.py <wsEndpoint> <token> <site>
"""

import json
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    endpoint, token, site = sys.argv[1:4]
    with sync_playwright() as playwright:
        browser = playwright.firefox.connect(f"{endpoint}?page=open", headers={"Authorization": f"Bearer {token}"})
        page = browser.contexts[0].pages[0]
        found = page.title()
        page.route("**/greeting", lambda route: route.fulfill(body="routed by Python"))
        page.goto(f"{site}/form")
        page.fill("#name", "Grace")
        page.click("#greet")
        greeting = page.text_content("#greeting")
        page.click("#fetch")
        page.wait_for_selector("#fetched:not(:empty)")
        with page.expect_download() as download, tempfile.TemporaryDirectory() as folder:
            page.click("#download")
            saved = Path(folder, "saved")
            download.value.save_as(saved)
            content = saved.read_text()
        picture = page.screenshot()
        print(
            json.dumps(
                {
                    "found": found,
                    "greeting": greeting,
                    "routed": page.text_content("#fetched"),
                    "downloaded": content,
                    "isPng": picture.startswith(b"\x89PNG"),
                }
            )
        )
        browser.close()


if __name__ == "__main__":
    main()
