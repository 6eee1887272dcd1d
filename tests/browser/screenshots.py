"""Takes a picture of every page, wide and narrow, light and dark, of a factory with data.

python -m tests.browser.screenshots FOLDER [NAME …]
python -m tests.browser.screenshots --readme      (those that the README shows, into deploy/)
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests import stores
from tests.browser.seed import TOKEN, Seeded, login_token, seed
from tests.browser.site import Site, serving

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
README = {  # picture in deploy/ → page, width, theme
    "dashboard": ("sample-explained", "wide", "light"),
    "playground": ("playground-tried", "wide", "dark"),
    "review": ("review", "wide", "light"),
    "phone": ("review", "phone", "dark"),
}
WIDTHS = {"wide": (1280, 800), "phone": (390, 844)}


def paths(seeded: Seeded) -> dict[str, str]:
    """Every page by the name of its picture."""
    return {
        "overview": "/",
        "dataset": "/datasets/hypotheses",
        "dataset-new": "/datasets/new",
        "jobs": "/jobs",
        "job-new": "/jobs/new",
        "playground": "/playground",
        "playground-tried": f"/playground/{seeded.tried}",
        "job-running": f"/jobs/{seeded.running}",
        "job-finished": f"/jobs/{seeded.finished}",
        "compare": f"/jobs/compare?left={seeded.finished}&right={seeded.running}",
        "compare-choice": f"/jobs/compare?left={seeded.finished}",
        "evaluation": f"/jobs/{seeded.evaluation}",
        "experiments": "/experiments",
        "experiment": f"/experiments/{seeded.experiment}",
        "experiment-running": f"/experiments/{seeded.trying}",
        "samples": "/samples?dataset=hypotheses",
        "samples-copies": "/samples?dataset=hypotheses&copies=only",
        "map": "/map?dataset=hypotheses",
        "sample": f"/samples/{seeded.sample}",
        "sample-explained": f"/samples/{seeded.sample}?asked={seeded.explanation}",
        "sample-explained-levers": f"/samples/{seeded.sample}?asked={seeded.learned}",
        "sample-replayed": f"/samples/{seeded.sample}?asked={seeded.replay}",
        "review": "/review?dataset=hypotheses",
        "models": "/models",
        "settings": "/settings",
        "health": "/health",
        "not-found": "/nowhere",
    }


def main(folder: Path, names: Sequence[str] = ()) -> None:
    """Take them all, or those of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    with _site() as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        empty = {"login": "/login", "overview-empty": "/", "job-new-empty": "/jobs/new"}
        login_token(site.db)
        _take(browser, site, folder, _chosen(empty, names))
        _take(browser, site, folder, _chosen(paths(seed(site.db)), names))
        browser.close()


def readme(folder: Path) -> None:
    """Take those that the README shows, as far as a window shows them."""
    with _site() as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        login_token(site.db)
        found = paths(seed(site.db))
        for picture, (name, width, theme) in README.items():
            page = _page(browser, site, width, theme)
            sign_in(page)
            page.goto(found[name])
            page.wait_for_timeout(500)
            page.screenshot(path=folder / f"{picture}.png")
            page.context.close()
        browser.close()


def _page(browser: Browser, site: Site, width: str, theme: str) -> Page:
    x, y = WIDTHS[width]
    return browser.new_context(
        viewport={"width": x, "height": y},
        color_scheme="dark" if theme == "dark" else "light",
        base_url=site.url,
    ).new_page()


def _chosen(pages: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: path for name, path in pages.items() if not names or name in names}


def _take(browser: Browser, site: Site, folder: Path, pages: dict[str, str]) -> None:
    for theme in ("light", "dark"):
        for width in WIDTHS:
            page = _page(browser, site, width, theme)
            for name, path in pages.items():
                if path != "/login":
                    sign_in(page)
                page.goto(path)
                page.wait_for_timeout(200)
                page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=True)
            page.context.close()


def sign_in(page: Page) -> None:
    """Log in, once per context."""
    if any(cookie["name"] == "factory_session" for cookie in page.context.cookies()):
        return
    page.goto("/login")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: not url.endswith("/login"))


@contextmanager
def _site() -> Iterator[Site]:
    label_studio = {
        "label_studio_url": "http://label-studio.example:8080",
        "label_studio_api_key": "key",
    }
    with stores.running(**label_studio) as settings, serving(settings) as site:
        yield site


if __name__ == "__main__":
    if sys.argv[1] == "--readme":
        readme(stores.REPOSITORY / "deploy")
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
