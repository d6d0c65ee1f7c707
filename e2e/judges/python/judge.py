"""What all judges in Python share: the environment that `run` sets, the sample of their tests, and their results."""

import json
import os
import traceback
from collections.abc import Awaitable, Callable

ENDPOINT = os.environ["ENDPOINT"]
SITE = os.environ["SITE"]
HEADERS = {"Authorization": f"Bearer {os.environ['TOKEN']}"} if os.environ.get("TOKEN") else {}


class Skip(Exception):
    """Raise it to skip a test."""


def sample(tests: list) -> list:
    """Every N-th of the tests, where N is the environment variable SAMPLE."""
    return tests[:: int(os.environ.get("SAMPLE", "1"))]


def report(judge: str, test: str, outcome: str, reason: str = "") -> None:
    """Appends a test's result to the file of results. `outcome`: passed, failed or skipped."""
    with open(os.environ["RESULTS"], "a", encoding="utf-8") as results:
        print(json.dumps({"judge": judge, "test": test, "outcome": outcome, "reason": reason}), file=results)


async def report_run(judge: str, test: str, body: Callable[[], Awaitable[None]]) -> None:
    """Runs `body` and reports its result."""
    try:
        await body()
    except Skip as skip:
        report(judge, test, "skipped", str(skip))
    except Exception:
        report(judge, test, "failed", traceback.format_exc())
    else:
        report(judge, test, "passed")
