"""What people do with the dashboard, on a whole factory with a real Label Studio: from the first
login over the first job, one sample and its tokens, and a rejection over there to the next job
steered; a job cancelled; a sample pinned and retired; a sweep and its settings in use."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from factory.local import label_studio
from factory.local.demo.grammar import PROMPT

from .conftest import Demo
from .running import RunningFactory

DATASET = "first-steps"
PATIENCE = 120_000  # milliseconds: real workers, on a machine that others use too


@pytest.fixture
def page(running_factory: RunningFactory) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        context = browser.new_context(base_url=running_factory.addresses["url"])
        context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield context.new_page()
        browser.close()


@pytest.fixture
def signed_in(running_factory: RunningFactory, demo: Demo, page: Page) -> Page:
    """A page of someone who has signed in where the demo has run."""
    page.goto("/")
    page.get_by_label("Token").fill(running_factory.addresses["token"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("link", name="New job").first).to_be_visible()
    return page


def test_from_the_first_login_to_a_job_that_is_steered_by_a_rejection(
    running_factory: RunningFactory,
    label_studio_server: label_studio.Server,
    demo: Demo,
    page: Page,
) -> None:
    page.goto("/")
    page.get_by_label("Token").fill(running_factory.addresses["token"])
    page.get_by_role("button", name="Sign in").click()

    page.locator("main").get_by_role(
        "link", name=re.compile("(New|Create a) dataset")
    ).first.click()
    fill_in_dataset(page, DATASET)
    page.goto(f"/playground?dataset={DATASET}&model=demo")
    page.get_by_role("button", name="Try 8 samples").click()
    expect(page.locator("#tried")).to_contain_text("came out the same")
    expect(page.locator("#tried tbody .tried").last).not_to_be_empty()

    page.goto(f"/jobs/new?dataset={DATASET}&model=demo")
    submitted(page, "8")
    newest(page).click()
    page.get_by_role("button", name="Show what moved each token").click()
    expect(page.locator(".tokens li").first).to_be_visible()
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#answer")).to_contain_text("Identical")

    sample = re.sub(r"[?#].*", "", page.url)
    text = page.locator(".sample").inner_text()
    reject_in_label_studio(page, label_studio_server, sample, text)
    until_seen(page, sample, "off topic")

    page.goto(f"/review?dataset={DATASET}")
    expect(page.locator("#away").locator("xpath=../../..")).to_contain_text(text)
    page.goto(f"/jobs/new?dataset={DATASET}&model=demo")
    page.locator("[id='negatives.sources.synthetic']").fill("0")
    page.locator("[id='audit']").fill("0")
    submitted(page, "4")
    newest(page).click()
    expect(away_from(page, sample)).to_contain_text(text)


def test_a_running_job_is_cancelled_and_keeps_what_it_made(signed_in: Page) -> None:
    page = signed_in
    create_dataset(page, "cancelled")
    page.goto("/jobs/new?dataset=cancelled&model=demo")
    started(page, "3000")
    expect(newest(page)).to_be_visible()
    page.get_by_text("■ Cancel").click()
    page.get_by_role("button", name="Cancel this job").click()
    expect(page.get_by_text("The job is cancelled now.")).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    newest(page).click()
    expect(page.get_by_role("heading", name="How it was made")).to_be_visible()

    page.goto("/jobs/new?dataset=cancelled&model=demo")
    submitted(page, "4")


def test_a_pinned_sample_steers_each_next_one_until_it_is_retired(signed_in: Page) -> None:
    page = signed_in
    create_dataset(page, "pins")
    page.goto("/jobs/new?dataset=pins&model=demo")
    submitted(page, "4")
    newest(page).click()
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.get_by_text("Pinned: every further sample").first).to_be_visible()
    pinned = re.sub(r"[?#].*", "", page.url)

    assert is_steered_from(page, pinned)
    page.goto(pinned)
    page.get_by_role("button", name="Retire", exact=True).click()
    expect(page.get_by_text("Retired: no further sample").first).to_be_visible()
    assert not is_steered_from(page, pinned)


def test_a_sweep_ends_with_settings_that_the_next_job_takes(signed_in: Page) -> None:
    page = signed_in
    create_dataset(page, "tuned")
    page.goto("/experiments")
    page.get_by_label("Dataset", exact=True).select_option("tuned")
    page.get_by_label("Settings to try").fill("3")
    page.get_by_label("Samples of each").fill("8")
    page.get_by_role("button", name="Calibrate").click()
    expect(page.get_by_role("heading", name="Recommended")).to_be_visible()
    page.get_by_role("button", name=re.compile("^Use these")).click()
    expect(page.get_by_text("New jobs of tuned take these settings")).to_be_visible()
    expect(page.get_by_text("in use")).to_be_visible()
    page.goto("/jobs/new?dataset=tuned&model=demo")
    submitted(page, "4")

    page.goto("/datasets/tuned")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("own settings again")).to_be_visible()


def create_dataset(page: Page, name: str) -> None:
    """A dataset of this test's own: others look at the demo's."""
    page.goto("/datasets/new")
    fill_in_dataset(page, name)


def fill_in_dataset(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_role("button", name="Create the dataset").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)


def is_steered_from(page: Page, sample: str) -> bool:
    """Whether a sample of a new job, made with feedback, is steered away from `sample`."""
    page.goto("/jobs/new?dataset=pins&model=demo")
    page.locator("[id='audit']").fill("0")
    submitted(page, "2")
    newest(page).click()
    expect(page.get_by_role("heading", name="How it was made")).to_be_visible()
    return away_from(page, sample).count() > 0


def away_from(page: Page, sample: str) -> Locator:
    """The link to `sample` among what the page's sample was steered away from."""
    away = page.locator("#away").locator("xpath=..")
    return away.locator(f"a[href*='{sample.rsplit('/', 1)[1]}']")


def newest(page: Page) -> Locator:
    """The newest sample on a job's page."""
    return page.locator("#newest").locator("xpath=../..").locator("[data-open]").first


def started(page: Page, count: str) -> None:
    """Start the job of the form."""
    page.get_by_label("Samples", exact=True).fill(count)
    page.get_by_role("button", name="Start the job").click()


def submitted(page: Page, count: str) -> None:
    """Start the job of the form and watch it to its end."""
    started(page, count)
    expect(page.locator("#live")).to_contain_text(f"{count} of {count} samples")
    expect(page.locator("#live")).to_contain_text("done")


def reject_in_label_studio(page: Page, server: label_studio.Server, sample: str, text: str) -> None:
    """Follow the sample's link, sign in over there, read the text, and refuse it: with the call
    that Label Studio's own form makes."""
    until_seen(page, sample, "Waiting for a verdict in Label Studio.")
    link = page.get_by_role("link", name="Label Studio ↗")
    task = (link.get_attribute("href") or "").rpartition("task=")[2]
    link.click()
    page.locator("input[name=email]").fill(label_studio.USERNAME)
    page.locator("input[name=password]").fill(server.password)
    page.locator("form [type=submit]").first.click()
    expect(page.get_by_text(text).last).to_be_visible()
    answer = page.request.post(
        f"{server.url}/api/tasks/{task}/annotations/",
        headers={"Authorization": f"Token {server.token}"},
        data={"result": [chosen("verdict", "reject"), chosen("reasons", "off_topic")]},
    )
    assert answer.status == 201, answer.text()


def chosen(field: str, choice: str) -> dict[str, object]:
    value = {"choices": [choice]}
    return {"from_name": field, "to_name": "text", "type": "choices", "value": value}


def until_seen(page: Page, path: str, words: str) -> None:
    """Look again until a page says so."""
    for _ in range(int(PATIENCE / 1000)):
        page.goto(path)
        if words in page.locator("main").inner_text():
            return
        page.wait_for_timeout(1000)
    raise AssertionError(f"{path} does not say: {words}")
