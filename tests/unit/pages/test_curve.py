"""Numbers as a line."""

from factory.web.pages.curve import HEIGHT, WIDTH, line


def points(drawn: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in drawn.split())]


def test_the_line_runs_from_edge_to_edge_and_more_is_higher() -> None:
    drawn = points(line([(0, 4.0), (5, 1.0), (10, 3.0)]))
    assert [x for x, _ in drawn] == [0, WIDTH / 2, WIDTH]
    first, lowest, last = (y for _, y in drawn)
    assert 0 < first < last < lowest < HEIGHT


def test_a_flat_line_is_drawn_and_a_single_point_is_not() -> None:
    assert len({y for _, y in points(line([(0, 2.0), (1, 2.0)]))}) == 1
    assert line([(0, 2.0)]) == line([]) == ""


def test_counts_stand_on_zero() -> None:
    assert points(line([(0, 5), (1, 10)], low=0))[0][1] == HEIGHT / 2
