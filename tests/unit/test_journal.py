"""The journal: what was appended is read back to the bit, a torn end is cut, damage before the end is said."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import StoreError
from cift_models.events import Events
from cift_models.instruments import Session
from serving import journal as journal_module
from serving.journal import RECORD, START, Entry, Journal
from tests.panels import toy_panel, toy_universe

UNIVERSE = toy_universe(2)
SESSION = Session(20240101, 10, 20)


def same(a: Entry, b: Entry) -> bool:
    if isinstance(a, Events) and isinstance(b, Events):
        return all(getattr(a, f.name).tobytes() == getattr(b, f.name).tobytes() for f in fields(Events))
    return type(a) is type(b) and a == b


def some_events(n: int = 30) -> Events:
    return toy_panel(0, 30, 2).events[:n]


def written(path: Path, entries: list[Events | int]) -> list[int]:
    """Begin a session, append; the byte after each record."""
    journal = Journal(path, UNIVERSE)
    journal.begin(SESSION)
    ends = [journal.end]
    for entry in entries:
        journal.append(entry)
        ends.append(journal.end)
    journal.close()
    return ends


def read(path: Path) -> list[Entry]:
    journal = Journal(path, UNIVERSE)
    try:
        return [entry for _, entry in journal.entries()]
    finally:
        journal.close()


def test_entries_read_back_to_the_bit_and_from_any_record(tmp_path):
    entries = [some_events(), 15, some_events(0), some_events(1), 16]
    ends = written(tmp_path / "j.bin", entries)
    journal = Journal(tmp_path / "j.bin", UNIVERSE)
    back = list(journal.entries())
    assert [at for at, _ in back] == ends and journal.end == ends[-1]
    assert all(same(a, b) for a, (_, b) in zip([SESSION, *entries], back, strict=True))
    assert [at for at, _ in journal.entries(ends[2])] == ends[3:]
    journal.append(17)
    assert [entry for _, entry in journal.entries(ends[-1])] == [17]
    journal.close()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_a_cut_anywhere_keeps_every_whole_record_and_goes_on(tmp_path_factory, cut, sizes):
    path = tmp_path_factory.mktemp("j") / "j.bin"
    ends = written(path, [some_events(n) for n in sizes])
    data = path.read_bytes()
    cut %= len(data) + 1
    path.write_bytes(data[:cut])
    kept = [SESSION, *(some_events(n) for n in sizes)][: sum(end <= cut for end in ends)]
    assert len(read(path)) == len(kept) and all(same(a, b) for a, b in zip(read(path), kept, strict=True))
    journal = Journal(path, UNIVERSE)
    journal.append(99)
    assert [e for _, e in journal.entries()][-1] == 99 and len(list(journal.entries())) == len(kept) + 1
    journal.close()


def test_a_flipped_byte_before_the_end_is_said_and_not_cut(tmp_path):
    path = tmp_path / "j.bin"
    ends = written(path, [some_events(), 15])
    data = bytearray(path.read_bytes())
    for at in (ends[0] + RECORD.size + 40, ends[0]):  # in the events, and in the kind of their record
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged at byte"):
            Journal(path, UNIVERSE)
        assert path.read_bytes() == bytes(damaged)


def test_a_session_replaces_the_one_before(tmp_path):
    path = tmp_path / "j.bin"
    journal = Journal(path, UNIVERSE)
    journal.begin(SESSION)
    journal.append(some_events())
    assert journal.generation == 1
    reading = journal.entries()
    next(reading)
    journal.begin(Session(20240102, 30, 40))
    assert journal.generation == 2 and [e for _, e in journal.entries()] == [Session(20240102, 30, 40)]
    assert isinstance(next(reading)[1], Events)  # who reads the old file reads on in it
    journal.append(31)
    assert [e for _, e in journal.entries()] == [Session(20240102, 30, 40), 31]
    journal.close()


def test_another_universe_puts_the_journal_aside(tmp_path):
    path = tmp_path / "j.bin"
    written(path, [some_events()])
    before = path.read_bytes()
    journal = Journal(path, toy_universe(3))
    assert list(journal.entries()) == [] and journal.end == START
    assert path.with_suffix(".aside").read_bytes() == before
    journal.close()


def test_one_writer_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "LOCK_WAIT_S", 0.1)
    first = Journal(tmp_path / "j.bin", UNIVERSE)
    with pytest.raises(StoreError, match="Another service"):
        Journal(tmp_path / "j.bin", UNIVERSE)
    first.close()
    Journal(tmp_path / "j.bin", UNIVERSE).close()


def test_a_write_that_takes_two_calls_is_whole(tmp_path, monkeypatch):
    whole = journal_module.os.write
    monkeypatch.setattr(journal_module.os, "write", lambda file, data: whole(file, bytes(data)[: max(1, len(data) // 2)]))
    path = tmp_path / "j.bin"
    journal = Journal(path, UNIVERSE)
    journal.append(some_events())
    assert same(some_events(), next(journal.entries())[1]) and journal.end == path.stat().st_size
    journal.close()
    assert np.array_equal(next(iter(read(path))).ts, some_events().ts)
