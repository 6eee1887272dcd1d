"""The study itself, in miniature: it runs, goes on where it was stopped, and judges rightly."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.intervals import wilson
from tests.benchmarks.study import levers, loop, rejections, reviewers
from tests.benchmarks.study.aims import aims
from tests.benchmarks.study.beds import TRIES, Bed, Models, Setting, real_samples
from tests.benchmarks.study.calibration import AIM
from tests.benchmarks.study.compare import verdicts
from tests.benchmarks.study.figures import draw
from tests.benchmarks.study.levers import LEVERS, Case, Reviewed
from tests.benchmarks.study.measures import Copies, Estimate, marks, mean, share
from tests.benchmarks.study.report import END, START, markdown, rows_of, short, write_into
from tests.benchmarks.study.run import PARTS, Run
from tests.benchmarks.study.store import OutOfTime, Store
from tests.benchmarks.study.study import Sizes, Study, setting_key
from tests.benchmarks.testbed import COMMENTS, TASKS, Grammar
from workers.metrics.copies import near_copies_ngram
from workers.training.base import BaseConfig

TINY = BaseConfig(steps=30, batch=2, context=256, layers=1, hidden=32, feed_forward=48, heads=4)
SIZES = Sizes(seeds=1, tuning=4, samples=8, reviews=10, grid=1, points=4, count=2, rounds=2)
THEME = (reviewers.IN_ROUNDS[0].name, "comments")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the study: more threads than free cores make tiny models very slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


def study_in(folder: Path, until: float = math.inf) -> Study:
    models = Models(folder / "models", TINY)
    return Study(models, Store(folder / "made", until), SIZES, ("comments",), ("well fit",))


@pytest.fixture(scope="module")
def bed(folder: Path) -> Bed:
    return study_in(folder).bed(COMMENTS, "well fit", 1)


def test_a_stopped_study_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    study = study_in(folder)
    result = Run(study, tmp_path, lambda _: None).run(["context", "three"])
    context, three = (rows_of(result, part) for part in ("context", "three"))
    rounds = loop.loop(study, THEME)
    assert [row["model"] for row in context] == ["base", "well fit"]
    assert [row["lever"] for row in rounds] == loop.tried("theme")
    assert set(loop.tried(loop.COSTLY_UNDER)) - set(loop.tried("theme")) == {loop.COSTLY}
    assert all(len(row["by_round"]) == SIZES.rounds for row in rounds)
    again = study_in(folder, until=0)
    said: list[str] = []
    later = Run(again, tmp_path, said.append).run(["context", "levers"])
    assert rows_of(later, "context") == context
    assert rows_of(later, "three") == three
    assert loop.loop(again, THEME) == rounds
    assert not rows_of(later, "levers")
    assert sum("run it again" in line for line in said) == len(result["cells"]["levers"])
    with pytest.raises(OutOfTime):
        rejections.levers(again, ("theme", "comments"))


def test_a_study_of_another_size_starts_anew(folder: Path, tmp_path: Path) -> None:
    study = study_in(folder)
    assert rows_of(Run(study, tmp_path, lambda _: None).run(["context"]), "context")
    other = replace(study, sizes=replace(SIZES, samples=9))
    assert not rows_of(Run(other, tmp_path, lambda _: None).run([]), "context")


def test_tables_and_figures_show_the_cells_that_are_in(folder: Path, tmp_path: Path) -> None:
    study = study_in(folder)
    result = Run(study, tmp_path, lambda _: None).run(["three", "calibrate"])
    result["parts"]["loop"] = {"theme · comments": loop.loop(study, THEME)}
    assert markdown(result).count("| comments |") == sum(
        len(rows) for cells in result["parts"].values() for rows in cells.values()
    )
    assert "rules 0 of 1" in short(result)
    drawn = draw(result, tmp_path)
    assert [file.name for file in drawn] == ["loop.svg", "calibrate.svg"]
    for file in drawn:
        assert "comments" in " ".join(ElementTree.parse(file).getroot().itertext())
    [row] = rows_of(result, "calibrate")
    assert row["samples"] < row["grid_samples"]
    assert row["within"] == (row["ratio"] >= AIM)


def test_texts_depend_on_their_seed_alone(bed: Bed) -> None:
    assert bed.texts(6, 3, Setting()) == bed.texts(9, 3, Setting())[:6]
    assert bed.texts(6, 3, Setting()) != bed.texts(6, 4, Setting())


def test_a_refused_text_is_made_anew(bed: Bed) -> None:
    plain = bed.texts(8, 5, Setting())
    gated = bed.kept(8, 5, Setting(keep=lambda text: text != plain[3]))
    assert gated.texts[3] != plain[3]
    assert [text for i, text in enumerate(gated.texts) if i != 3] == plain[:3] + plain[4:]
    assert gated.written > 8


def test_what_a_lever_never_lets_pass_is_left_out(bed: Bed) -> None:
    refused = bed.kept(3, 5, Setting(keep=lambda _: False))
    assert refused.texts == []
    assert refused.written == 3 * TRIES


def test_the_centre_of_a_rejected_text_is_the_nearest_accepted_one(bed: Bed) -> None:
    texts = real_samples(COMMENTS)[:60]
    reviewed = [Reviewed(text, COMMENTS.theme(text) == COMMENTS.favourite) for text in texts]
    setting = levers.centred(Case(bed, Setting(), reviewed, Random(1)))
    negatives, centre = setting.pick(Random(2), [])
    rejected, accepted = levers.split(reviewed)
    assert len(negatives) == len(centre) == levers.NEGATIVES
    assert set(negatives) <= set(rejected)
    assert set(centre) <= set(accepted)
    assert setting.guidance.eta == levers.ETA


def test_shuffled_verdicts_are_as_many_but_of_other_texts(bed: Bed) -> None:
    texts = real_samples(COMMENTS)[:60]
    reviewed = [Reviewed(text, i < 9) for i, text in enumerate(texts)]
    pick = levers.shuffled(Case(bed, Setting(), reviewed, Random(1))).pick
    seen = {text for seed in range(200) for text in pick(Random(seed), [])[0]}
    assert len(seen) == 9
    assert seen != set(texts[:9])


def test_a_lever_without_rejections_steers_from_nothing(bed: Bed) -> None:
    reviewed = [Reviewed(text, False) for text in real_samples(COMMENTS)[:9]]
    for lever in (levers.negatives, levers.centred, levers.shuffled):
        setting = lever(Case(bed, Setting(), reviewed, Random(1)))
        assert setting.pick(Random(1), []) == ([], ())


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(list(TASKS.values())), st.integers(0, 2**32))
def test_near_copies_are_those_of_the_factory(task: Grammar, seed: int) -> None:
    rng = Random(seed)
    drawn = [task.draw(rng) for _ in range(5)]
    real, text = [str(one) for one in drawn], str(task.varied(rng, drawn[0]))
    assert Copies(real).near(text) == (near_copies_ngram([text], real).value == 1)


def test_a_useful_text_is_coherent_new_and_no_copy() -> None:
    real, fresh = real_samples(COMMENTS)[:2], str(COMMENTS.draw(Random(0)))
    texts = [real[0], fresh, fresh, fresh + "!", real[1]]
    assert marks(COMMENTS, texts, real).useful == [False, True, False, False, False]


def test_a_share_of_like_seeds_has_wilsons_interval() -> None:
    hits = [[True] * 3 + [False] * 7] * 4
    found = share(hits)
    assert (found.low, found.high) == pytest.approx(wilson(12, 40))
    assert found.value == pytest.approx(0.3)


def test_seeds_that_differ_widen_intervals() -> None:
    alike, apart = [[True, False] * 10] * 3, [[True] * 20, [True, False] * 10, [False] * 20]
    assert share(apart).high - share(apart).low > 2 * (share(alike).high - share(alike).low)
    assert mean([0.1, 0.5, 0.9], [0.01] * 3).low < 0.2
    assert mean([0.5, 0.5, 0.5], [0.03] * 3).high == pytest.approx(
        0.5 + 1.96 * 0.03 / 3**0.5, abs=1e-4
    )


def test_one_estimate_beats_another_beyond_both_intervals_only() -> None:
    low, middle, high = (Estimate(x, x - 0.1, x + 0.1) for x in (0.3, 0.4, 0.6))
    assert high.beats(low)
    assert not middle.beats(low)
    assert not low.beats(high)


def test_the_verdict_on_steer_counts_cells() -> None:
    def row(rule: str, coherence: float, variety: float, use: float) -> dict[str, object]:
        measures = {"coherence": coherence, "distinct3": variety, "yield": use}
        found = {k: {"value": v, "low": v - 0.01, "high": v + 0.01} for k, v in measures.items()}
        return {"task": "comments", "regime": "well fit", "rule": rule} | found

    rows = [
        row("steer", 0.9, 0.4, 0.8),
        row("nucleus", 0.95, 0.3, 0.7),
        row("plain", 0.8, 0.5, 0.6),
    ]
    assert verdicts(rows)["not_beaten"] == 1
    assert verdicts(rows)["ahead_beyond_interval"] == 1
    better = [*rows, row("min-p", 0.95, 0.45, 0.9)]
    assert verdicts(better)["cells"][0]["beaten_by"] == ["min-p"]


def test_the_mind_changer_refuses_one_theme_after_the_other() -> None:
    rng, other = Random(1), reviewers.other_theme(COMMENTS)
    refuses = reviewers.changes_mind(COMMENTS)
    first, second = (str(COMMENTS.draw(rng, theme)) for theme in (COMMENTS.favourite, other))
    assert [refuses(first, turn) for turn in (1, 2, 3)] == [True, True, False]
    assert [refuses(second, turn) for turn in (1, 2, 3)] == [False, False, True]


def test_settings_that_make_other_texts_have_other_keys() -> None:
    cooler = levers.temperature(Case(None, Setting(), [], Random(0)))  # type: ignore[arg-type]
    assert setting_key(Setting()) != setting_key(cooler)
    assert setting_key(Setting()) == setting_key(Setting(slots=4))


def test_the_readme_takes_the_tables_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_into(readme, "new\n")
    assert readme.read_text() == f"before\n{START}\nnew\n{END}\nafter\n"
    readme.write_text("nothing here")
    with pytest.raises(ValueError, match="study: begin"):
        write_into(readme, "new\n")


def test_the_gate_lets_no_near_copy_through(bed: Bed) -> None:
    copies = Copies(real_samples(COMMENTS))
    gated = levers.gate(Case(bed, Setting(), [], Random(1)))
    assert gated.keep is not None
    assert not gated.keep(real_samples(COMMENTS)[0])
    kept = bed.kept(8, 5, gated)
    assert len(kept.texts) <= 8 <= kept.written
    assert all(not copies.near(text) for text in kept.texts)


def test_learned_levers_follow_verdicts_that_can_be_foretold_and_no_others(bed: Bed) -> None:
    texts = real_samples(COMMENTS)[:80]
    toxic = [Reviewed(text, text.startswith("toxic")) for text in texts]
    rng = Random(3)
    blind = [Reviewed(text, rng.random() < 0.5) for text in texts]
    told, untold = (Case(bed, Setting(), reviewed, Random(1)) for reviewed in (toxic, blind))
    assert levers.head(told).terms
    assert levers.head(untold) == Setting()
    keep = levers.ranked(told).keep
    assert keep is not None
    kept = [keep(str(COMMENTS.draw(rng))) for _ in range(50)]
    assert 10 < sum(kept) < 40
    assert levers.ranked(untold) == Setting()


def test_adapters_follow_verdicts_and_need_an_expert_that_is_one(bed: Bed, folder: Path) -> None:
    texts = real_samples(COMMENTS)[:80]
    rng = Random(3)
    toxic = [Reviewed(text, text.startswith("toxic")) for text in texts]
    blind = [Reviewed(text, rng.random() < 0.5) for text in texts]
    told, untold = (levers.adapters(Case(bed, Setting(), said, rng)) for said in (toxic, blind))
    assert [term.weight for term in told.terms] == [levers.ADAPTERS.weight]
    assert untold == Setting()
    before, after = (bed.texts(120, 9, setting) for setting in (Setting(), told))
    shares = [sum(text.startswith("toxic") for text in made) for made in (before, after)]
    assert shares[1] < 0.7 * shares[0]
    full = study_in(folder).bed(COMMENTS, "memorising", 1)
    assert levers.adapters(Case(full, Setting(), toxic, rng)) == Setting()


def test_what_has_been_made_with_other_levers_is_not_made_anew() -> None:
    """Their names in the store hold these numbers."""
    made = (3, 1.0, 3.0, 0.3, 0.7, 0.95, 1.0)
    assert all(levers.constants(lever)[:7] == made for lever in LEVERS)
    assert levers.constants("verdict head") == levers.constants("none") == made
    assert len(levers.constants("A − R adapters")) > len(made)


def test_the_recommended_levers_are_those_that_the_verdicts_bear_out(bed: Bed) -> None:
    """A head with enough verdicts that it can foretell; negatives where words tell them, or where
    they are too few to know."""
    texts = real_samples(COMMENTS)[:80]
    toxic = [Reviewed(text, text.startswith("toxic")) for text in texts]
    at_random = [Reviewed(text, number % 2 == 0) for number, text in enumerate(texts)]
    told, few, blind = (
        levers.recommended(Case(bed, Setting(), reviewed, Random(1)))
        for reviewed in (toxic, toxic[:12], at_random)
    )
    assert told.terms
    assert told.guidance.eta == levers.ETA
    assert not few.terms
    assert few.guidance.eta == levers.ETA
    assert blind.guidance.eta == 0
    for setting in (told, few, blind):
        assert setting.guidance.nucleus == levers.MASK
        assert setting.keep is not None
        assert not setting.keep(texts[0])


def test_an_aim_is_met_when_its_figures_are() -> None:
    def row(lever: str, refused: float, variety: float) -> dict[str, object]:
        measures = {"rejected": refused, "distinct3_kept": variety}
        found = {k: {"value": v, "low": v, "high": v} for k, v in measures.items()}
        return {"task": "comments", "reviewer": "theme", "lever": lever} | found

    def met(refused: float, variety: float) -> list[bool]:
        rows = [row("none", 0.2, 0.4), row("recommended", refused, variety)]
        parts = {part: [] for part in PARTS} | {"loop": rows}
        return [line["met"] for line in aims(parts)]

    assert met(0.02, 0.39) == [True, True]
    assert met(0.03, 0.39) == [False, True]
    assert met(0.02, 0.37) == [True, False]
    assert aims({part: [] for part in PARTS}) == []
