"""What people do with the dashboard, in a real browser."""

import random
import re

from playwright.sync_api import Page, expect

from factory import jobs, requests

from .conftest import Watched
from .screenshots import paths
from .seed import Seeded, answer_try, finish, note_try
from .site import Site


def test_a_job_is_submitted_and_watched_to_its_end(
    watched: Watched, site: Site, seeded: Seeded
) -> None:
    page = watched.page
    page.get_by_role("link", name="New job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("New job")
    page.wait_for_load_state()  # the slider needs its script
    page.get_by_label("Dataset", exact=True).select_option("hypotheses")
    page.get_by_label("Samples", exact=True).fill("6")
    page.get_by_label("Avoid what exists (η), slider").fill("0.75")
    expect(page.get_by_label("▼ Avoid what exists (η)", exact=True)).to_have_value("0.75")
    expect(page.locator("#same-yaml")).to_contain_text("eta: 0.75")
    page.get_by_role("button", name="Start the job").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("hypotheses · 6 samples")
    expect(page.locator("#live")).to_contain_text("0 of 6 samples")
    with site.db.transaction() as session:
        [job] = jobs.list_page(session, limit=1)
    finish(site.db, job.id)
    expect(page.locator("#live")).to_contain_text("6 of 6 samples")
    expect(page.locator("#newest ~ *, .feed li")).not_to_have_count(0)
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    expect(page.locator("#announce")).to_have_text("Job done, 100 percent")


def test_settings_are_tried_and_submitted(watched: Watched, site: Site, seeded: Seeded) -> None:
    page = watched.page
    page.goto("/playground?dataset=hypotheses")
    page.get_by_label("Avoid what exists (η), slider").fill("0.8")
    page.get_by_role("button", name="Try 8 samples").click()
    expect(page.locator("#tried")).to_contain_text("A GPU worker is asked")
    expect(page).to_have_url(re.compile("/playground/.+"))
    expect(page.get_by_label("Seed", exact=True)).not_to_have_value("")
    with site.db.transaction() as session:
        [request_id] = requests.pending(session)
        answer_try(session, requests.get(session, request_id), random.Random(1))
    expect(page.locator("#tried")).to_contain_text("1 of 8 came out the same")
    expect(page.locator("#tried mark").last).to_be_visible()
    page.get_by_label("Samples", exact=True).fill("7")
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("hypotheses · 7 samples")
    expect(page.get_by_text("η .8")).not_to_have_count(0)


def test_texts_grow_while_one_watches(watched: Watched, site: Site, seeded: Seeded) -> None:
    page = watched.page
    page.goto("/playground?dataset=hypotheses")
    page.get_by_role("button", name="Try 8 samples").click()
    expect(page.locator("#tried")).to_contain_text("A GPU worker is asked")
    with site.db.transaction() as session:
        [request_id] = requests.pending(session)
    growing = page.locator("#tried td[data-label=Guided] .tried").first
    for tokens, text in enumerate(("Warm", "Warm seas", "Warm seas rise"), start=1):
        note_try(site.db, request_id, text, tokens)
        expect(growing).to_have_text(re.compile(rf"^{text}\s+not whole yet$"))
        expect(growing.locator(".caret")).to_be_visible()
    with site.db.transaction() as session:
        answer_try(session, requests.get(session, request_id), random.Random(1))
    expect(page.locator("#tried")).to_contain_text("1 of 8 came out the same")
    expect(page.locator("#tried .caret")).to_have_count(0)


def test_settings_are_tried_without_scripts(
    unscripted: Watched, site: Site, seeded: Seeded
) -> None:
    page = unscripted.page
    page.goto("/playground?dataset=hypotheses")
    page.get_by_role("button", name="Try 8 samples").click()
    expect(page.locator("noscript meta[http-equiv=refresh]")).to_have_count(1)
    with site.db.transaction() as session:
        [request_id] = requests.pending(session)
    note_try(site.db, request_id, "Warm seas", 2)
    expect(page.locator("#tried")).to_contain_text("Warm seas")
    with site.db.transaction() as session:
        answer_try(session, requests.get(session, request_id), random.Random(1))
    expect(page.locator("#tried")).to_contain_text("1 of 8 came out the same")


def test_a_wrong_setting_is_named_in_the_playground(watched: Watched, seeded: Seeded) -> None:
    page = watched.page
    page.goto("/playground?dataset=hypotheses")
    page.get_by_label("▲ Follow the expert (γ)", exact=True).fill("77")
    page.locator("#job-form").evaluate("form => { form.noValidate = true; }")
    page.evaluate("htmx.config.defaultSettleDelay = 60_000")  # whoever is quick is not too quick
    page.get_by_role("button", name="Try 8 samples").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was tried")
    page.get_by_label("Follow the expert (γ), slider").fill("0.5")
    expect(page.get_by_label("▲ Follow the expert (γ)", exact=True)).to_have_value("0.5")


def test_a_sample_is_opened_and_replayed(watched: Watched, site: Site, seeded: Seeded) -> None:
    page = watched.page
    page.goto(f"/jobs/{seeded.finished}")
    page.locator(".feed a").first.click()
    expect(page.get_by_role("heading", name="How it was made")).to_be_visible()
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#answer")).to_contain_text("A GPU worker is asked")
    with site.db.transaction() as session:
        [request_id] = requests.pending(session)
        same = {"identical": True, "text": "", "expected": "", "first_difference": None}
        requests.answer(session, requests.get(session, request_id), same)
    expect(page.locator("#answer")).to_contain_text("Identical")


def test_a_token_shows_what_was_likeliest_in_its_place(watched: Watched, seeded: Seeded) -> None:
    """The first that guidance changed at once, any other when it is pointed at or reached."""
    page = watched.page
    page.goto(f"/samples/{seeded.sample}?asked={seeded.explanation}")
    tokens, told = page.locator(".tokens summary"), page.locator(".why:visible")
    expect(told).to_have_count(1)
    expect(told).to_contain_text("would have come")
    tokens.nth(0).hover()
    expect(told).to_have_count(1)
    expect(told).to_contain_text(tokens.nth(0).inner_text().strip())
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(told).to_contain_text(tokens.nth(1).inner_text().strip())
    expect(told.get_by_role("list", name="Unguided, likeliest first")).to_be_visible()
    expect(told.get_by_role("list", name="Guided, likeliest first", exact=True)).to_be_visible()
    page.keyboard.press("Enter")
    expect(told).to_have_count(1)


def test_a_token_shows_what_was_likeliest_without_scripts(
    unscripted: Watched, seeded: Seeded
) -> None:
    page = unscripted.page
    page.goto(f"/samples/{seeded.sample}?asked={seeded.explanation}")
    tokens, told = page.locator(".tokens summary"), page.locator(".why:visible")
    tokens.nth(0).focus()
    page.keyboard.press("Enter")
    expect(told).to_have_count(1)
    expect(told).to_contain_text(tokens.nth(0).inner_text().strip())


def test_samples_are_found_on_the_map(watched: Watched, seeded: Seeded) -> None:
    page = watched.page
    page.goto("/map?dataset=hypotheses")
    canvas = page.locator("#map[data-ready]")
    box = canvas.bounding_box()
    assert box is not None
    left, top = box["x"] + 4, box["y"] + 4
    right, bottom = box["x"] + box["width"] - 4, box["y"] + box["height"] - 4
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y)
    page.mouse.up()
    expect(page.locator("#selected")).to_contain_text("the first 100 listed")
    page.get_by_label("Made until").fill("0")
    expect(page.locator("#map-until")).not_to_be_empty()
    page.get_by_label("Colour by").select_option("origin")
    expect(page.locator("#map-legend")).to_contain_text("corrected")
    page.locator("#map-list a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Sample")


def test_two_jobs_are_compared(watched: Watched, seeded: Seeded) -> None:
    page = watched.page
    page.goto(f"/jobs/{seeded.finished}")
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_text("Choose the other job")).to_be_visible()
    page.get_by_label("Right").select_option(str(seeded.running))
    page.get_by_role("button", name="Compare").click()
    changed = page.get_by_role("table", name="Settings that differ")
    expect(changed).to_contain_text("Avoid what exists (η)")
    expect(page.get_by_role("table", name="Figures")).to_contain_text("clear")
    pairs = page.get_by_role("table", name="Samples by number").get_by_role("row")
    expect(pairs).to_have_count(21)
    page.get_by_role("link", name="Next").click()
    expect(pairs.nth(1)).to_contain_text("20")
    page.get_by_role("link", name="Swap").click()
    expect(page.get_by_label("Left")).to_have_value(str(seeded.running))


def test_near_copies_are_found_without_scripts(unscripted: Watched, seeded: Seeded) -> None:
    page = unscripted.page
    page.goto("/samples?dataset=hypotheses")
    page.get_by_label("Near-copies").select_option("only these")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".feed > li")).to_have_count(6)
    expect(page.get_by_text("≈near-copy")).to_have_count(6)
    page.locator(".feed a").first.click()
    page.get_by_role("link", name="See the one that it repeats").click()
    expect(page.get_by_text("●real").first).to_be_visible()


def test_a_budget_is_set_and_holds(watched: Watched, seeded: Seeded) -> None:
    page = watched.page
    page.goto("/settings")
    page.get_by_label("Budget of", exact=True).select_option("dataset support-replies")
    page.get_by_label("A day at most").fill("5")
    page.get_by_role("button", name="Set the budget").click()
    expect(page.get_by_text("The budget is 5 samples a day.")).to_be_visible()
    row = page.get_by_role("row", name="dataset support-replies")
    expect(row).to_contain_text("0; 5 left")
    page.goto("/jobs/new?dataset=support-replies")
    page.get_by_label("Samples", exact=True).fill("6")
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("alert")).to_contain_text("Ask for at most 5")
    assert "422" in watched.trouble.pop()  # the browser tells of every page that is refused
    page.get_by_label("Samples", exact=True).fill("5")
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("support-replies · 5 samples")
    page.goto("/settings")
    expect(row).to_contain_text("5; ✕ nothing left")
    row.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)


def test_a_job_is_paused_and_cancelled(watched: Watched, site: Site, seeded: Seeded) -> None:
    page = watched.page
    page.goto(f"/jobs/new?like={seeded.finished}")
    page.get_by_role("button", name="Start the job").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.get_by_text("■ Cancel").click()
    page.get_by_role("button", name="Cancel this job").click()
    expect(page.get_by_text("The job is cancelled now.")).to_be_visible()


def test_everything_is_reached_by_keyboard(watched: Watched, seeded: Seeded) -> None:
    page = watched.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.get_by_label("Search samples")).to_be_focused()
    page.keyboard.type("nitrogen")
    page.keyboard.press("Enter")
    expect(page.get_by_text("What matches “nitrogen” in hypotheses")).to_be_visible()
    page.wait_for_load_state()  # the keys need their script
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    first = page.locator("[data-open]").first
    expect(first).to_be_focused()
    wanted = first.get_attribute("href")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"{wanted}$"))


def test_samples_are_ticked_by_keyboard_and_retired(watched: Watched, seeded: Seeded) -> None:
    page = watched.page
    page.goto("/samples?dataset=hypotheses&origin=synthetic")
    for key in ("j", "x", "j", "x"):
        page.keyboard.press(key)
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(2)
    page.get_by_role("button", name="Retire as negatives").click()
    expect(page.get_by_text("2 retired")).to_be_visible()
    expect(page).to_have_url(re.compile("origin=synthetic"))


def test_single_keys_can_be_switched_off(watched: Watched, seeded: Seeded) -> None:
    page = watched.page
    page.goto("/samples?dataset=hypotheses")
    page.keyboard.press("?")
    page.get_by_label("Single-letter keys are on").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("/")
    expect(page.get_by_label("Search samples")).not_to_be_focused()


def test_a_job_is_submitted_without_scripts(unscripted: Watched, seeded: Seeded) -> None:
    page = unscripted.page
    page.goto("/jobs/new?dataset=hypotheses")
    page.locator("[id='count']").fill("5")
    page.locator("[id='guidance.gamma']").fill("0.2")
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("hypotheses · 5 samples")
    expect(page.locator("noscript p")).to_be_visible()
    expect(page.locator("noscript meta[http-equiv=refresh]")).to_have_count(1)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()


def test_no_page_is_wider_than_a_phone(phone: Watched, seeded: Seeded) -> None:
    for path in pages_of(seeded):
        phone.page.goto(path)
        assert _overflow(phone.page) <= 0, path


def pages_of(seeded: Seeded) -> list[str]:
    """Every page that answers 200."""
    return [path for name, path in paths(seeded).items() if name != "not-found"]


def _overflow(page: Page) -> int:
    """How many pixels the page is wider than the window."""
    return int(
        page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    )
