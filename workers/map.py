"""Draws a dataset's map: the two directions in which its embeddings differ most."""

import uuid

import numpy as np
import numpy.typing as npt

from factory import maps
from factory.db import Database

Array = npt.NDArray[np.float64]
EDGE = 99.0  # percent of the points lie within −1 to 1


def draw_dataset(database: Database, dataset_id: uuid.UUID) -> int:
    """Draw the map of a dataset and store it; returns how many points it has."""
    found = database.retrying(lambda session: maps.vectors(session, dataset_id))
    places = plane(np.array([vector for _, vector in found], dtype=np.float64))
    points = [(id_, float(x), float(y)) for (id_, _), (x, y) in zip(found, places, strict=True)]
    database.retrying(lambda session: maps.store(session, dataset_id, points))
    return len(points)


def plane(vectors: Array) -> Array:
    """(N, D) to (N, 2): the first two principal components, scaled alike.

    The same vectors give the same picture: each axis points to where its largest weight is
    positive.
    """
    if len(vectors) < 2:
        return np.zeros((len(vectors), 2))
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # (D, D), the largest last
    first = axes[:, :-3:-1]
    signs = np.sign(first[np.abs(first).argmax(axis=0), range(2)])
    places: Array = centred @ (first * signs)
    size = float(np.percentile(np.abs(places), EDGE))
    return places / (size or 1.0)
