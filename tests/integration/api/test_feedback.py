"""A dataset's feedback setting, and what its levers are."""

from typing import Any

from factory.feedback import RECOMMENDED, Feedback


def test_a_dataset_begins_with_negatives_alone(api: Any, dataset: str) -> None:
    shown = api.get(f"/datasets/{dataset}").get_json()["feedback"]
    assert Feedback.model_validate(shown) == Feedback()
    state = api.get(f"/datasets/{dataset}/metrics").get_json()["feedback"]
    assert state == {"setting": shown, "fitted": [], "scale": 1.0, "backed_off": None}


def test_a_setting_is_kept_and_later_jobs_take_it(api: Any, dataset: str, known: Any) -> None:
    job = {"kind": "generate", "dataset": dataset, "model": known.model, "count": 1}
    before = api.post("/jobs", json=job).get_json()["spec"]["feedback"]
    setting = {
        "levers": {"verdict_head": {"weight": 2.0}, "adapters": {"cap": 0.5}},
        "window": {"rounds": 3},
    }
    answer = api("PATCH", f"/datasets/{dataset}", json={"feedback": setting})
    assert answer.status_code == 200
    changed = answer.get_json()["feedback"]
    assert changed == api.get(f"/datasets/{dataset}").get_json()["feedback"]
    assert changed["levers"]["verdict_head"] == {"weight": 2.0, "cap": 0.3, "rank": 8}
    assert changed["levers"]["adapters"] == {
        "weight": 1.0,
        "cap": 0.5,
        "steps": 30,
        "learning_rate": 0.002,
    }
    assert changed["levers"]["negatives"] is None
    after = api.post("/jobs", json=job).get_json()["spec"]["feedback"]
    assert after == changed
    assert before["levers"]["negatives"] == {
        "weight": 1.0,
        "center": None,
        "told_apart": None,
    }
    own = api.post("/jobs", json={**job, "feedback": {"levers": {}}}).get_json()
    assert Feedback.model_validate(own["spec"]["feedback"]).levers.names == []
    unchanged = api("PATCH", f"/datasets/{dataset}", json={}).get_json()
    assert unchanged["feedback"] == changed


def test_the_recommended_levers_have_a_name(api: Any, dataset: str) -> None:
    answer = api("PATCH", f"/datasets/{dataset}", json={"feedback": {"levers": "recommended"}})
    levers = Feedback.model_validate(answer.get_json()["feedback"]).levers
    assert levers == RECOMMENDED
    assert levers.names == ["gates", "negatives", "verdict_head"]
    wrong = api("PATCH", f"/datasets/{dataset}", json={"feedback": {"levers": "best"}})
    assert wrong.status_code == 422
    assert {error["field"] for error in wrong.get_json()["errors"]} == {"feedback.levers"}


def test_a_setting_that_cannot_be_names_its_fields(api: Any, dataset: str) -> None:
    bad = {"gates": {"pattern": "["}, "verdict_head": {"cap": -1}, "adapters": {"weight": 0}}
    wrong = {"levers": {**bad, "hammer": {}}}
    answer = api("PATCH", f"/datasets/{dataset}", json={"feedback": wrong})
    assert answer.status_code == 422
    fields = {error["field"] for error in answer.get_json()["errors"]}
    assert {field.removeprefix("feedback.levers.") for field in fields} == {
        "gates.pattern",
        "verdict_head.cap",
        "adapters.weight",
        "hammer",
    }
    assert api("PATCH", "/datasets/none-such", json={}).status_code == 404
