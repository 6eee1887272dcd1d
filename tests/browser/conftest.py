"""A browser on the served dashboard."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from factory.settings import Settings

from .screenshots import ARGUMENTS, CHROMIUM, sign_in
from .seed import Seeded, login_token, seed
from .site import Site, serving

FIGURE = "figure"


@dataclass
class Watched:
    """A page, and whatever it should not do."""

    page: Page
    trouble: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def site(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), database_url=postgres_url, broker_url=redis_url
    )
    with serving(settings) as served:
        login_token(served.db)
        yield served


@pytest.fixture(scope="module")
def seeded(site: Site) -> Seeded:
    return seed(site.db)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says a figure at the end of the whole run, whether or not the test passes."""
    return partial(record_property, FIGURE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures of the pages."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, line in report.user_properties:
                if name == FIGURE:
                    terminalreporter.write_line(line)


@pytest.fixture
def watched(browser: Browser, site: Site) -> Iterator[Watched]:
    """A signed-in page at desk width; fails at the end on console errors and outside requests."""
    yield from _watch(browser, site, width=1280)


@pytest.fixture
def phone(browser: Browser, site: Site) -> Iterator[Watched]:
    """The same, 390 px wide."""
    yield from _watch(browser, site, width=390)


@pytest.fixture
def unscripted(browser: Browser, site: Site) -> Iterator[Watched]:
    """The same, with scripts switched off."""
    yield from _watch(browser, site, width=1280, scripts=False)


def _watch(browser: Browser, site: Site, *, width: int, scripts: bool = True) -> Iterator[Watched]:
    context = browser.new_context(
        viewport={"width": width, "height": 844}, base_url=site.url, java_script_enabled=scripts
    )
    page = context.new_page()
    watched = Watched(page)
    page.on("pageerror", lambda error: watched.trouble.append(f"error: {error}"))
    page.on("console", lambda said: _note(watched, said.type, said.text))
    page.on("request", lambda request: _note_request(watched, site, request.url))
    sign_in(page)
    yield watched
    context.close()
    assert watched.trouble == []


def _note(watched: Watched, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        watched.trouble.append(f"{kind}: {text}")


def _note_request(watched: Watched, site: Site, url: str) -> None:
    if not url.startswith((site.url, "data:")):
        watched.trouble.append(f"request: {url}")
