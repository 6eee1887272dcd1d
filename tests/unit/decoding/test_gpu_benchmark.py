"""The GPU benchmark's whole flow on a tiny model: what runs on a lent card for minutes works."""

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import gpu_steer


def test_the_table_is_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "table.json"
    options = ["--device", "cpu", "--tiny", "--batches", "1", "3", "--new", "4"]
    table = gpu_steer.main([*options, "--seconds", "120", "--json", str(written)])
    assert table.left_out == []
    assert {name: sorted(of) for name, of in table.rates["tiny"].items()} == {
        "hf": [1, 3],
        "plain": [1, 3],
        "steer": [1, 3],
    }
    assert "nan" not in "".join(table.lines())
    assert json.loads(written.read_text()) == json.loads(
        capsys.readouterr().out.strip().splitlines()[-1]
    )


def test_what_the_time_does_not_allow_is_left_out_and_said() -> None:
    table = gpu_steer.main(["--device", "cpu", "--tiny", "--batches", "2", "--seconds", "0"])
    assert table.left_out == [f"tiny {name} 2: no time left" for name in ("hf", "plain", "steer")]
    table.add("tiny", "steer", 2, 1.0)
    assert math.isnan(float(table.lines()[1].split()[-1]))
