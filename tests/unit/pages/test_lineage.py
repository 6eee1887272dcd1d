"""The drawing of a sample's lineage."""

import uuid

from factory.tables import Sample, SampleNegative
from factory.web.pages.lineage import BOX, drawn


def sample(number: int, **columns: object) -> Sample:
    values = {"id": uuid.UUID(int=number), "text": f"text {number}", "state": "generated"}
    return Sample(**values | columns)


def links(*roles: str) -> list[tuple[SampleNegative, Sample]]:
    return [(SampleNegative(role=role, position=n), sample(10 + n)) for n, role in enumerate(roles)]


def test_what_led_to_it_is_left_and_what_came_of_it_right() -> None:
    job = uuid.UUID(int=99)
    made = sample(1, job_id=job, ordinal=4)
    shown = drawn(made, links("negative", "center"), [sample(2)], None, steered=3)
    columns: dict[int, list[str]] = {}
    for node in shown.nodes:
        columns.setdefault(node.x, []).append(node.title)
    left, here, right = (columns[x] for x in sorted(columns))
    assert left == ["made by job", "negative 1", "centre 2"]
    assert here == ["this sample"]
    assert right == ["rewritten as", "steered away from it"]
    assert [edge.role for edge in shown.edges] == [
        *("", "negative", "center"),
        *("corrected", "negative"),
    ]
    assert shown.nodes[0].target == ("job", job)
    assert shown.nodes[1].target == ("sample", uuid.UUID(int=10))


def test_nothing_lies_outside_the_drawing_or_on_another_box() -> None:
    shown = drawn(sample(1), links(*["negative"] * 7), [], sample(2), steered=0)
    boxes = [(node.x, node.y) for node in shown.nodes]
    assert all(0 <= x <= shown.width - BOX[0] for x, _ in boxes)
    assert all(0 <= y <= shown.height - BOX[1] for _, y in boxes)
    for x, y in boxes:
        assert sum(x == a and abs(y - b) < BOX[1] for a, b in boxes) == 1


def test_a_sample_of_its_own_has_no_line() -> None:
    assert drawn(sample(1, state="accepted"), [], [], None, steered=0).edges == []


def test_long_texts_are_cut_to_one_line() -> None:
    shown = drawn(sample(1, text="many words\n" * 20), [], [], None, steered=0)
    [node] = shown.nodes
    assert "\n" not in node.text
    assert node.text.endswith("…")
