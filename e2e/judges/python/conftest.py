"""Connects pytest-playwright to the server, selects the sample, and writes the results in the judges' format."""

import judge
import pytest


@pytest.fixture(scope="session")
def connect_options() -> dict:
    return {"endpoint": judge.ENDPOINT, "headers": judge.HEADERS}


@pytest.fixture(scope="session")
def base_url() -> str:
    return judge.SITE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = judge.sample(items)
    for item in items:
        shared = item.callspec.params.get("shared")
        item.user_properties.append(("name", shared.name if shared else item.function.__doc__))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A test has reports of its setup, its call and its teardown.
    if report.passed and report.when != "call":
        return
    reason = report.longrepr[2].removeprefix("Skipped: ") if report.skipped else report.longreprtext
    judge.report("pytest-playwright", dict(report.user_properties)["name"], report.outcome, reason)
