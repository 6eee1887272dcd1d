"""What a newcomer does with the dashboard, on a whole factory with a real Label Studio: the first
login, the first job, one sample and its tokens, a rejection over there, the next job steered."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

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
        yield context.new_page()
        browser.close()


def test_from_the_first_login_to_a_job_that_is_steered_by_a_rejection(
    running_factory: RunningFactory,
    label_studio_server: label_studio.Server,
    demo: Demo,
    page: Page,
) -> None:
    expect.set_options(timeout=PATIENCE)
    page.goto("/")
    page.get_by_label("Token").fill(running_factory.addresses["token"])
    page.get_by_role("button", name="Sign in").click()

    page.locator("main").get_by_role(
        "link", name=re.compile("(New|Create a) dataset")
    ).first.click()
    page.get_by_label("Name").fill(DATASET)
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_role("button", name="Create the dataset").click()
    page.goto(f"/playground?dataset={DATASET}&model=demo")
    page.get_by_role("button", name="Try 8 samples").click()
    expect(page.locator("#tried")).to_contain_text("came out the same")
    expect(page.locator("#tried tbody .tried").last).not_to_be_empty()

    page.goto(f"/jobs/new?dataset={DATASET}&model=demo")
    submitted(page, "8")
    page.locator("#newest").locator("xpath=../..").locator("[data-open]").first.click()
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
    page.locator("#newest").locator("xpath=../..").locator("[data-open]").first.click()
    away = page.locator("#away").locator("xpath=..")
    expect(away.get_by_role("link", name=text)).to_have_attribute(
        "href", re.compile(re.escape(sample.rsplit("/", 1)[1]))
    )


def submitted(page: Page, count: str) -> None:
    """Start the job of the form and watch it to its end."""
    page.get_by_label("Samples", exact=True).fill(count)
    page.get_by_role("button", name="Start the job").click()
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
