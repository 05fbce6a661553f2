"""A browser for tests of the report's page: the system's Chromium, driven by Playwright."""

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """One browser per module. Tests that ask for it skip where there is none.

    Not one per session: while it runs, other tests of the same process cannot use asyncio.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="make install brings playwright")
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    options = ["--no-sandbox", "--disable-dev-shm-usage"]  # containers: root, and 64 MB of /dev/shm
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=options)
        yield started
        started.close()
