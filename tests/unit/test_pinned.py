"""A run reads what it pinned: features of the version that it built, events of the partitions that it selected, or an error."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from cift_models.errors import NotStored
from cift_models.models.protocol import Panel
from cift_models.settings import get_settings
from cift_models.stores.features import open_features
from cift_models.stores.point_in_time import point_in_time, version_at
from tasks import dataset as dataset_module
from tasks.dataset import build_session, open_panel, select_data
from tasks.ingest import ingest_file
from tests.lobster_made import BOOK, MESSAGES, lobster_made

DAY = date(2012, 6, 21)
FOREVER = 2**63 - 1


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def recorded(tmp_path: Path, messages: str = MESSAGES) -> Path:
    """Two minutes of a symbol."""
    return lobster_made(tmp_path / "TEST.zip", messages, BOOK, "TEST_2012-06-21_34200000_34320000")


def opened(dataset, built, day: int = 20120621) -> Panel:
    """As a process that has not opened it before."""
    dataset_module._open_panel.cache_clear()
    return open_panel(dataset, built, day)


def rows(panel: Panel) -> list[bytes]:
    assert panel.y is not None and panel.rows is not None
    return [a.tobytes() for a in (panel.as_of, panel.x, panel.valid, panel.why, panel.offsets, panel.y, panel.rows, panel.events.trade_sz)]


def test_a_correction_of_features_does_not_reach_a_run_that_is_under_way(tmp_path: Path) -> None:
    ingest_file("lobster", recorded(tmp_path), {})
    dataset = select_data.fn(["TEST"], DAY, DAY, None, 0, blocks=False)
    built = {20120621: build_session.fn(dataset, 20120621)}
    before = opened(dataset, built)
    store, about = open_features(get_settings()), (dataset.get_universe(), dataset.get_features(), dataset.session(20120621))
    (first,) = store.known(*about)
    arrays = store.read(*about, first.ref.sha256)
    corrected = arrays._replace(x=np.where(arrays.valid[:, :, None], arrays.x + 1.0, arrays.x))
    assert (corrected.x != arrays.x).any()
    second = store.write(*about, **corrected._asdict())
    # What is the newest now is not what the run reads, whether its step is asked again or not.
    assert version_at(store, *about, FOREVER) == second and second != first.ref
    assert rows(opened(dataset, built)) == rows(before)
    assert build_session.fn(dataset, 20120621) == built[20120621] and rows(opened(dataset, built)) == rows(before)
    for known_at, x in ((store.known(*about)[1].known_at - 1, arrays.x), (FOREVER, corrected.x)):
        found = point_in_time(store, *about[:2], [about[2]], "TEST", arrays.as_of, known_at)
        assert found.found.all() and (found.x == x[:, 0]).all()


def test_events_that_were_replaced_under_a_run_are_an_error(tmp_path: Path) -> None:
    """The vendor sends a trade of another size: no time changes, so nothing but the partitions tells."""
    ingest_file("lobster", recorded(tmp_path), {})
    dataset = select_data.fn(["TEST"], DAY, DAY, None, 0, blocks=False)
    built = {20120621: build_session.fn(dataset, 20120621)}
    before = opened(dataset, built)
    ingest_file("lobster", recorded(tmp_path, MESSAGES.replace("34201.1,5,0,10,", "34201.1,5,0,15,")), {})
    with pytest.raises(NotStored, match="events of 20120621 are stored anew") as caught:
        opened(dataset, built)
    assert "Select the data again" in caught.value.hint
    # Who begins now selects what is there now, and gets its features.
    again = select_data.fn(["TEST"], DAY, DAY, None, 0, blocks=False)
    panel = opened(again, {20120621: build_session.fn(again, 20120621)})
    assert panel.offsets.tolist() == before.offsets.tolist() and panel.events.trade_sz.sum() == before.events.trade_sz.sum() + 5
    about = (again.get_universe(), again.get_features(), again.session(20120621))
    assert len({one.ref for one in open_features(get_settings()).known(*about)}) == 2
    # The same file as at first: the run that pinned it may go on.
    ingest_file("lobster", recorded(tmp_path), {})
    assert rows(opened(dataset, built)) == rows(before)
