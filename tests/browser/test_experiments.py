"""From a sweep to settings in use, in a real browser."""

import re

from playwright.sync_api import expect

from factory import datasets, experiments, jobs

from . import seed_sweep
from .conftest import Watched
from .seed import Seeded
from .site import Site


def test_a_sweep_is_asked_for_watched_and_used(
    watched: Watched, site: Site, seeded: Seeded
) -> None:
    page = watched.page
    page.get_by_role("link", name="Experiments").click()
    page.get_by_label("Dataset", exact=True).select_option("hypotheses")
    page.get_by_label("Settings to try").fill("12")
    page.get_by_text("Choose what is tried").click()
    page.get_by_label("Follow the expert (γ)").fill("-0.5, 0, 0.5")
    page.get_by_label("Avoid what exists (η)").fill("0.25, 0.5, 1")
    page.get_by_label("How", exact=True).select_option("grid")
    page.get_by_role("button", name="Calibrate").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Settings for hypotheses with demo")
    expect(page.locator("#live")).to_contain_text("0 of 60 samples")
    with site.db.transaction() as session:
        [job] = jobs.list_page(session, kind="sweep", limit=1)
        seed_sweep.ended(session, job)

    expect(page.get_by_role("heading", name="Recommended")).to_be_visible()
    expect(page.locator("svg.heat rect.cell")).to_have_count(9)
    expect(page.locator("svg.chart .dot")).to_have_count(10)
    expect(page.locator("table.beside tbody tr")).to_have_count(8)
    page.get_by_role("link", name=re.compile("Compare samples: γ .5 · η 1")).click()
    expect(page.locator("table.beside th").nth(1)).to_have_text("γ .5 · η 1")
    page.get_by_role("button", name=re.compile("^Use these")).click()
    expect(page.get_by_text("New jobs of hypotheses take these settings")).to_be_visible()
    expect(page.get_by_text("in use")).to_be_visible()

    with site.db.transaction() as session:
        chosen = (jobs.get(session, job.id).result or {})["recommendation"]["position"]
        guidance = experiments.tried(session, job.id)[chosen][0].spec["guidance"]
        assert datasets.get(session, "hypotheses").defaults["guidance"] == guidance
    page.goto("/jobs/new?dataset=hypotheses")
    expect(page.locator("[id='guidance.eta']")).to_have_value(f"{guidance['eta']:g}")
    page.goto("/datasets/hypotheses")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("own settings again")).to_be_visible()


def test_a_sweep_is_cancelled_without_scripts(
    unscripted: Watched, site: Site, seeded: Seeded
) -> None:
    page = unscripted.page
    page.goto("/experiments")
    page.get_by_label("Dataset", exact=True).select_option("hypotheses")
    page.get_by_role("button", name="Calibrate").click()
    expect(page.locator("noscript meta[http-equiv=refresh]")).to_have_count(1)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The job is cancelled now.")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
