"""The demo's report shows what the JSON holds, and needs nothing from outside itself."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from factory.local.demo import grammar
from factory.local.demo.corpus import real_samples
from factory.local.demo.report import (
    Counts,
    headline,
    in_words,
    round_result,
    terminal_table,
    write_page,
)

REAL = real_samples(50, seed=1)


def texts(theme: str, count: int, other: int) -> list[str]:
    rng = Random(count)
    others = [grammar.sample(rng, "soil") for _ in range(other)]
    return [grammar.sample(rng, theme) for _ in range(count)] + others


GUIDED = {
    "round-1": texts("ocean", 10, 10),
    "control": texts("ocean", 20, 20),
    "round-2": [*texts("ocean", 2, 37), "<script>alert(1)</script>"],
}


@pytest.fixture
def demo() -> dict[str, Any]:
    rounds = [
        round_result(
            name,
            feedback=name == "round-2",
            counts=Counts(len(guided) + 5, len(guided) + 4, len(guided) + 3, len(guided) + 2),
            guided=guided,
            audit=texts("ocean", 1, 4) if name == "round-2" else [],
            real=REAL,
        )
        for name, guided in GUIDED.items()
    ]
    return {"seconds": 321.4, "rounds": rounds}


class Outline(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(demo: dict[str, Any], tmp_path: Path) -> Outline:
    path = tmp_path / "demo" / "report.html"
    write_page(path, demo, GUIDED)
    return Outline(path.read_text(encoding="utf-8"))


def test_a_round_holds_counts_measures_and_its_audit(demo: dict[str, Any]) -> None:
    last = json.loads(json.dumps(demo))["rounds"][2]
    assert (last["name"], last["feedback"]) == ("round-2", True)
    assert [last[key] for key in ("planned", "stored", "pushed", "reviewed")] == [45, 44, 43, 42]
    assert last["theme_share"] == 2 / 40
    assert last["coherence"] == 39 / 40
    assert last["audit"]["theme_share"] == 1 / 5
    for key in ("theme_share", "coherence", "distinct3", "yield", "copies"):
        low, high = last[f"{key}_ci"]
        assert low <= last[key] <= high


def test_the_terminal_shows_every_round_side_by_side(demo: dict[str, Any]) -> None:
    console = Console(width=120, record=True)
    with console.capture() as captured:
        console.print(terminal_table(demo))
    shown = captured.get()
    assert "simulated" in shown
    for expected in ("round-1", "control", "round-2", "50 %", "5 % (1–16)", "98 % (87–100)"):
        assert expected in shown
    audit = next(line for line in shown.splitlines() if "audit" in line)
    assert audit.count("–") == 3  # nothing was measured twice, then an interval


def test_the_headline_compares_the_steered_round_with_its_control(demo: dict[str, Any]) -> None:
    assert headline(demo) == (
        "Rejecting “ocean” took it from 50 % to 5 % of new samples; 98 % of them are coherent, "
        "without feedback 100 %."
    )


def test_the_page_needs_nothing_from_outside(page: Outline) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe"}
    assert not [a for _, attributes in page.tags for a in attributes if a in ("src", "href")]
    assert not re.search(r"https?://|url\(|@import", page.text)


def test_the_page_says_that_the_reviewer_is_simulated(page: Outline) -> None:
    assert "reviewer is simulated" in " ".join(page.text.split())


def test_the_page_draws_every_measure_of_every_round(demo: dict[str, Any], page: Outline) -> None:
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    for label, key in zip(labels, ("theme_share", "coherence", "distinct3", "yield"), strict=True):
        assert label is not None
        for entry in demo["rounds"]:
            assert f"{entry['name']} {in_words(entry, key)}" in label
    widths = [float(attrs["width"] or 0) for tag, attrs in page.tags if tag == "rect"]
    assert len(widths) == 4 * 3
    assert widths[2] / widths[1] == pytest.approx(0.05 / 0.5, rel=1e-2)


def test_the_page_shows_samples_as_text(page: Outline) -> None:
    assert GUIDED["control"][0] in page.text
    assert "✕ rejected" in page.text
    assert "✓ coherent" in page.text


def test_a_round_without_samples_is_shown_as_dashes(demo: dict[str, Any], tmp_path: Path) -> None:
    empty = round_result(
        "round-1", feedback=False, counts=Counts(5, 0, 0, 0), guided=[], audit=[], real=REAL
    )
    demo["rounds"][0] = empty
    write_page(tmp_path / "report.html", demo, {"round-1": []})
    outline = Outline((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len([1 for tag, _ in outline.tags if tag == "rect"]) == 4 * 2
