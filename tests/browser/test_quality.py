"""Every page: axe-core finds nothing serious, it is light, quiet, and does not jump."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request
from sqlalchemy import update

from factory.tables import Outbox

from .conftest import Watched
from .screenshots import WIDTHS, paths, sign_in
from .seed import Seeded
from .site import Site

HEAVIEST = 100_000  # bytes of a page with its styles and scripts
PARTS = ("document", "stylesheet", "script", "image")
IMPACTS = ("critical", "serious", "moderate", "minor")
SERIOUS = IMPACTS[:2]
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
COLOUR = ("color-contrast", "link-in-text-block")
JUMPS = 0.02  # a fifth of what Core Web Vitals calls good

RUN_AXE = """async (options) => {
  const found = await axe.run(document, options);
  return found.violations.map((v) => ({
    id: v.id, impact: v.impact, nodes: v.nodes.map((n) => n.html.slice(0, 160)).slice(0, 3),
  }));
}"""
BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
WATCH_SHIFTS = """
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture(scope="session")
def axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_serious(
    browser: Browser, site: Site, seeded: Seeded, axe: str, width: str, tell: Callable[[str], None]
) -> None:
    """All rules in the light; then in the dark those of colour, which alone is different."""
    x, y = WIDTHS[width]
    context = browser.new_context(viewport={"width": x, "height": y}, base_url=site.url)
    page = context.new_page()
    sign_in(page)
    found = []
    for name, path in paths(seeded).items():
        page.emulate_media(color_scheme="light")
        page.goto(path)
        page.evaluate(axe)
        found += _violations(page, name, {"type": "tag", "values": RULES})
        page.emulate_media(color_scheme="dark")
        found += _violations(page, name, {"type": "rule", "values": COLOUR})
    context.close()
    by_impact = Counter(each["impact"] for each in found)
    counts = ", ".join(f"{by_impact[impact]} {impact}" for impact in IMPACTS)
    tell(f"axe-core, {len(paths(seeded))} pages {x} px wide, light and dark: {counts}")
    trouble = [each for each in found if each["impact"] in SERIOUS]
    assert not trouble, json.dumps(trouble, indent=1)


def _violations(page: Page, name: str, only: dict[str, Any]) -> list[dict[str, Any]]:
    found = page.evaluate(RUN_AXE, {"runOnly": only, "resultTypes": ["violations"]})
    return [{"page": name, **violation} for violation in found]


def test_no_page_jumps_is_too_wide_or_makes_trouble(
    watched: Watched, site: Site, seeded: Seeded
) -> None:
    """Also where work waits for a worker, which the overview says above all else."""
    with site.db.transaction() as session:
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        session.execute(update(Outbox).values(created_at=long_ago, sends=1))
    page = watched.page
    page.add_init_script(WATCH_SHIFTS)
    page.goto("/")
    assert page.get_by_text("Is one running?").first.is_visible()
    jumping, wide = {}, {}
    for name, path in paths(seeded).items():
        if name == "not-found":
            continue
        page.goto(path)
        page.wait_for_load_state("load" if name == "job-running" else "networkidle")
        if (shifted := page.evaluate("window.shifted")) > JUMPS:
            jumping[name] = shifted
        if (beyond := page.evaluate(BEYOND)) > 0:
            wide[name] = beyond
    assert (jumping, wide) == ({}, {})


def test_every_page_is_light_when_nothing_is_kept(
    browser: Browser, site: Site, seeded: Seeded, watched: Watched, tell: Callable[[str], None]
) -> None:
    signed_in = watched.page.context.storage_state()
    weights = {}
    for name, path in paths(seeded).items():
        context = browser.new_context(base_url=site.url, storage_state=signed_in)
        weights[name] = _weight(context.new_page(), path)
        context.close()
    heaviest = max(weights, key=lambda name: weights[name])
    tell(f"the heaviest of {len(weights)} pages: {heaviest}, {weights[heaviest]:,} bytes")
    assert {name: weight for name, weight in weights.items() if weight > HEAVIEST} == {}


def _weight(page: Page, path: str) -> int:
    """Bytes of the document, its styles, scripts and pictures, as they are sent; what charts fetch
    does not count."""
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request))
    page.goto(path)
    parts = [each for each in asked if each.resource_type in PARTS]
    assert len(parts) > 2
    return sum(each.sizes()["responseBodySize"] for each in parts)
