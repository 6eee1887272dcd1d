"""The map: where a dataset's samples lie, by what they mean."""

from collections import Counter

from flask import flash, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, maps
from factory.maps import Point
from factory.tables import Dataset
from factory.web.pages.frame import page, pages
from factory.web.state import current

LISTED = 60  # points of the table, the newest


@pages.get("/map")
def sample_map() -> ResponseReturnValue:
    """One dataset's map; the newest dataset's when none is named."""
    name = request.args.get("dataset")
    with current().db.transaction() as session:
        newest = next(iter(datasets.list_all(session, limit=1)), None)
        return _shown(session, datasets.get(session, name) if name else newest)


@pages.post("/map/<name>")
def draw_map(name: str) -> ResponseReturnValue:
    """Have a CPU worker draw it."""
    with current().db.transaction() as session:
        maps.ask(session, datasets.get(session, name).id)
    flash("A CPU worker draws the map; it appears in a moment.", "good")
    return redirect(url_for("pages.sample_map", dataset=name), 303)


@pages.get("/map/<name>/points")
def map_points(name: str) -> ResponseReturnValue:
    """The points, for the script that draws them."""
    with current().db.transaction() as session:
        found = maps.points(session, datasets.get(session, name).id)
    return jsonify([_row(point) for point in found])


@pages.get("/map/<name>/waiting")
def map_waiting(name: str) -> ResponseReturnValue:
    """204 until the map that was asked for is there; then the page is loaded anew."""
    with current().db.transaction() as session:
        waits = maps.is_asked(session, datasets.get(session, name).id)
    return ("", 204) if waits else ("", 200, {"HX-Refresh": "true"})


def _row(point: Point) -> list[object]:
    """As the script reads it: id, x, y, origin, state, Unix time, text."""
    seconds = int(point.created_at.timestamp())
    return [str(point.id), point.x, point.y, point.origin, point.state, seconds, point.text]


def _shown(session: Session, dataset: Dataset | None) -> ResponseReturnValue:
    if dataset is None:
        return page(session, "samples/map.html", dataset=None)
    points = maps.points(session, dataset.id)
    return page(
        session,
        "samples/map.html",
        dataset=dataset,
        made_at=maps.made_at(session, dataset.id),
        waits=maps.is_asked(session, dataset.id),
        count=len(points),
        origins=Counter(point.origin for point in points),
        newest=points[: -LISTED - 1 : -1],
    )
