"""Rules that a finished text must pass; each says why one does not."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jsonschema import Draft202012Validator
from numpy.typing import NDArray

from factory.feedback import Gates
from factory.texts import copied_meaning, copied_runs, runs
from workers.levers.keywords import Keyword, keyword_in

REASON = 200  # characters of a reason, at most

Vector = Sequence[float] | None
WHOSE = {"real": "a real sample", "synthetic": "an earlier sample", "corrected": "a rewrite"}


@dataclass
class Runs:
    """Texts by their runs of three words, to find one that shares many with another."""

    _having: dict[tuple[str, ...], list[int]] = field(default_factory=lambda: defaultdict(list))
    _origins: list[str] = field(default_factory=list)

    def add(self, origin: str, text: str) -> None:
        """Remember a text."""
        for run in runs(text):
            self._having[run].append(len(self._origins))
        self._origins.append(origin)

    def nearest(self, text: str) -> tuple[float, str]:
        """The largest share of the text's runs that one remembered text has, and its origin."""
        mine = runs(text)
        shared = Counter(place for run in mine for place in self._having.get(run, ()))
        if not mine or not shared:
            return 0.0, ""
        place, times = max(shared.items(), key=lambda item: (item[1], -item[0]))
        return times / len(mine), self._origins[place]


@dataclass
class Near:
    """Texts by their embeddings (unit vectors), to find the nearest."""

    _vectors: list[NDArray[np.float32]] = field(default_factory=list)
    _origins: list[str] = field(default_factory=list)

    def add(self, origin: str, vector: Vector) -> None:
        """Remember a text's embedding, if it has one."""
        if vector is not None:
            self._vectors.append(np.asarray(vector, dtype=np.float32))
            self._origins.append(origin)

    def nearest(self, vector: Vector) -> tuple[float, str]:
        """The largest cosine to a remembered text, and its origin."""
        if vector is None or not self._vectors:
            return 0.0, ""
        cosines = np.stack(self._vectors) @ np.asarray(vector, dtype=np.float32)
        best = int(cosines.argmax())
        return float(cosines[best]), self._origins[best]


@dataclass
class Gatekeeper:
    """The gates of a dataset, with the texts that a new one must not be a near-copy of.

    A text that passed is remembered, so that the next one is compared with it too.
    """

    gates: Gates
    keywords: Sequence[Keyword] = ()
    _runs: Runs = field(default_factory=Runs)
    _near: Near = field(default_factory=Near)

    def __post_init__(self) -> None:
        self._pattern = re.compile(self.gates.pattern) if self.gates.pattern is not None else None
        schema = self.gates.json_schema
        self._schema = Draft202012Validator(schema) if schema is not None else None

    def add(self, origin: str, text: str, vector: Vector = None) -> None:
        """Remember a text that is there already. origin: real, synthetic or corrected."""
        if self.gates.copies is not None:
            self._runs.add(origin, text)
        if self.gates.nearness is not None:
            self._near.add(origin, vector)

    def reason(self, text: str, vector: Vector = None) -> str | None:
        """Why the text does not pass, or None; one that passes is remembered.

        vector: its embedding, needed where `nearness` is set.
        """
        why = self._invalid(text) or keyword_in(text, self.keywords) or self._copy(text, vector)
        if why is None and "stored" in self.gates.against:
            self.add("synthetic", text, vector)
        return None if why is None else why[:REASON]

    def _invalid(self, text: str) -> str | None:
        gates, length = self.gates, len(text)
        if gates.min_characters is not None and length < gates.min_characters:
            return f"shorter than {gates.min_characters} characters"
        if gates.max_characters is not None and length > gates.max_characters:
            return f"longer than {gates.max_characters} characters"
        if self._pattern is not None and self._pattern.fullmatch(text) is None:
            return "does not match the pattern"
        return None if self._schema is None else _not_as(self._schema, text)

    def _copy(self, text: str, vector: Vector) -> str | None:
        gates = self.gates
        if gates.copies is not None:
            share, origin = self._runs.nearest(text)
            if share >= gates.copies:
                return copied_runs(WHOSE[origin], share)
        if gates.nearness is not None:
            cosine, origin = self._near.nearest(vector)
            if cosine >= gates.nearness:
                return copied_meaning(WHOSE[origin], cosine)
        return None


def _not_as(schema: Draft202012Validator, text: str) -> str | None:
    try:
        content = json.loads(text)
    except ValueError:
        return "is not JSON"
    error = next(iter(schema.iter_errors(content)), None)
    return None if error is None else f"against the JSON schema: {error.json_path} {error.message}"
