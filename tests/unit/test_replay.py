"""Recorded files for a service: read as ingest read them for its release."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from cift_models.errors import InputError
from cift_models.feeds.lean import read_lean
from cift_models.instruments import Universe
from serving.replay import recorded_events


def lean(folder: Path, symbol: str) -> Path:
    path = folder / symbol / "20131007_trade.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"20131007_{symbol}_Trade_Tick.csv", "15000000,100100,5,Q,0,0\n36000000,100000,7,Q,0,0\n")
    return path


def test_files_are_replayed_with_what_ingest_was_told_of_them(tmp_path):
    """Fee, tick and hours stand in no file; a release that was trained with others than the defaults can be replayed."""
    path = lean(tmp_path, "abc")
    (day,) = read_lean(path, fee_bps=0.5, tick_units=1, hours="extended")
    session, events = recorded_events("lean", [path], Universe((day.instrument,)))
    assert session == day.session
    # The first trade lies before the regular hours.
    assert events.trade_px.tolist() == [100_100, 100_000]


def test_files_of_another_symbol_are_refused(tmp_path):
    (day,) = read_lean(lean(tmp_path, "abc"))
    with pytest.raises(InputError, match="files hold XYZ; the release knows ABC"):
        recorded_events("lean", [lean(tmp_path, "xyz")], Universe((day.instrument,)))
