"""A sample's lineage as a drawing: what led to it on the left, what came of it on the right."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from factory.tables import Sample, SampleNegative

ROW = 52  # from one box to the next below it, in the drawing's units
BOX = (176, 40)
COLUMNS = (0, 224, 448)
LETTERS = 22  # of a text that fit into a box


@dataclass(frozen=True)
class Node:
    """One box. `meaning` gives its sign and colour; `target`: (page, id) that it leads to; `here`:
    it is the sample itself."""

    x: int
    y: float
    title: str
    text: str
    meaning: str
    target: tuple[str, uuid.UUID] | None
    here: bool


@dataclass(frozen=True)
class Edge:
    """A line between two boxes, from right edge to left edge; `role` colours it."""

    path: str
    role: str


@dataclass(frozen=True)
class Drawing:
    """Boxes of size `box` and lines, in a space of `width` by `height`."""

    width: int
    height: float
    box: tuple[int, int]
    nodes: Sequence[Node]
    edges: Sequence[Edge]


@dataclass(frozen=True)
class _Box:
    title: str
    text: str
    meaning: str
    role: str
    target: tuple[str, uuid.UUID] | None


def drawn(
    sample: Sample,
    links: Sequence[tuple[SampleNegative, Sample]],
    corrections: Sequence[Sample],
    original: Sample | None,
    steered: int,
) -> Drawing:
    """`original`: what a corrected sample rewrites. `steered`: how many later samples were
    steered away from this one."""
    left = [
        *([_job(sample)] if sample.job_id else []),
        *(_link(link, other) for link, other in links),
        *([_rewrite("rewrites", original)] if original else []),
    ]
    right = [_rewrite("rewritten as", other) for other in corrections]
    if steered:
        away = "sample" if steered == 1 else "samples"
        right.append(
            _Box("steered away from it", f"{steered:,} {away}", "negative", "negative", None)
        )
    height = ROW * max(len(left), len(right), 1) - (ROW - BOX[1])
    middle = (height - BOX[1]) / 2
    here = _Box("this sample", sample.text, sample.state, "", None)
    places = [
        *((0, y, box) for y, box in _column(left, height)),
        (1, middle, here),
        *((2, y, box) for y, box in _column(right, height)),
    ]
    nodes = [
        Node(COLUMNS[at], y, box.title, _cut(box.text), box.meaning, box.target, at == 1)
        for at, y, box in places
    ]
    edges = [Edge(_path(at, y, middle), box.role) for at, y, box in places if at != 1]
    return Drawing(COLUMNS[2 if right else 1] + BOX[0], height, BOX, nodes, edges)


def _job(sample: Sample) -> _Box:
    assert sample.job_id is not None  # noqa: S101  (the caller has looked)
    return _Box("made by job", f"no. {sample.ordinal}", "running", "", ("job", sample.job_id))


def _link(link: SampleNegative, other: Sample) -> _Box:
    role = "centre" if link.role == "center" else "negative"
    title = f"{role} {link.position + 1}"
    return _Box(title, other.text, link.role, link.role, ("sample", other.id))


def _rewrite(title: str, other: Sample) -> _Box:
    return _Box(title, other.text, "corrected", "corrected", ("sample", other.id))


def _column(boxes: Sequence[_Box], height: float) -> list[tuple[float, _Box]]:
    """Boxes below each other, around the middle."""
    top = (height - (ROW * len(boxes) - (ROW - BOX[1]))) / 2
    return [(top + ROW * i, box) for i, box in enumerate(boxes)]


def _path(column: int, y: float, middle: float) -> str:
    """A curve from the box's middle to that of the sample, or back."""
    start, end = COLUMNS[0] + BOX[0], COLUMNS[1]
    from_y, to_y = y + BOX[1] / 2, middle + BOX[1] / 2
    if column == 2:
        start, end, from_y, to_y = COLUMNS[1] + BOX[0], COLUMNS[2], to_y, from_y
    half = (start + end) // 2
    return f"M{start} {from_y:g}C{half} {from_y:g} {half} {to_y:g} {end} {to_y:g}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…"
