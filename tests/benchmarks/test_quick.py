"""The benchmarks themselves, in a few rounds: `python -m pytest tests/benchmarks`, with the extra `bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import proof
from tests.benchmarks.archive import measure
from tests.benchmarks.figures import BARE, OURS, SIGNED, Series
from tests.servers import find_binaries

ROOT = Path(__file__).parents[2]


def test_an_overhead_is_what_comes_on_top_of_bare_starlette() -> None:
    """And a ratio is taken within its round."""
    series = Series("cached read", {BARE: [10.0, 20.0, 10.0], SIGNED: [50.0, 60.0, 30.0], OURS: [20.0, 30.0, 20.0]})
    assert series.overhead(OURS).middle == 10
    ratio = series.ratio(OURS, SIGNED)
    assert (ratio.least, ratio.middle, ratio.greatest) == (0.25, 0.25, 0.5)


@pytest.mark.timeout(300)
def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    """Every peer answers rightly in every case, or the run fails; round trips are exact even in a quick one."""
    for package in ("starsessions", "redis_fastapi", "matplotlib"):
        pytest.importorskip(package)
    if not {"redis-8.2", "valkey-9.1"} <= set(find_binaries()):
        pytest.skip("the benchmarks need Redis 8.2 and Valkey 9.1")
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--json", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=280)
    figures = json.loads(path.read_text())
    assert figures["trips"]["cached read"][OURS] == 0
    assert figures["trips"]["cold read"][OURS] == figures["trips"]["write alone"][OURS] == 1
    assert len(figures["in_process"]) == 7
    assert len(figures["over_http"]) == 4


@pytest.mark.timeout(120)
def test_the_archiver_is_measured() -> None:
    """Rates of a few events mean nothing, but all of them are archived."""
    if "redis-8.2" not in find_binaries():
        pytest.skip("the benchmark needs Redis 8.2")
    quarter, whole = measure(2_000)
    assert quarter.events >= 500
    assert whole.events >= 2_000


@pytest.mark.timeout(120)
def test_the_proof_is_measured() -> None:
    """All that was generated is verified, without a fault."""
    if "redis-8.2" not in find_binaries():
        pytest.skip("the benchmark needs Redis 8.2")
    quarter, whole, cost = proof.measure(2_000)
    assert 500 <= quarter.events < whole.events
    assert whole.events >= 2_000
    assert cost.whole > 0 < cost.bare
