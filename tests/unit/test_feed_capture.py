"""Capture files: readable after any kill, never doubled, never mixed up, and what `read_binance` reads."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import pytest

from cift_models.errors import FeedError, InputError, StoreError
from cift_models.feeds.binance import read_binance
from serving.feed import capture
from serving.feed.backlog import Item, Source
from serving.feed.capture import CaptureFile, Captures, file_name, member
from serving.feed.venue import DEPTH, SNAPSHOT, break_line
from tests.feed_made import START, made

BTC, ETH = Source("BTCUSDT", "spot"), Source("ETHUSDT", "spot")
MIDNIGHT = 1_723_161_600_000_000_000


def path_of(folder: Path, source: Source = BTC) -> Path:
    return folder / file_name(source, 20240808)


def write(path: Path, lines: list[tuple[int, bytes]], flush_every: int = 20) -> CaptureFile:
    file = CaptureFile(path, BTC)
    for i, line in enumerate(lines):
        file.add(*line)
        if i % flush_every == flush_every - 1:
            file.flush()
    return file


def text(lines: list[tuple[int, bytes]]) -> bytes:
    return b"".join(b"%d %s\n" % line for line in lines)


def test_a_file_is_one_gzip_of_many_members_and_ingest_reads_it(tmp_path):
    lines = made(seconds=6).lines
    file = write(path_of(tmp_path), lines)
    file.close()
    assert path_of(tmp_path).name == "spot_btcusdt_20240808.gz"
    assert gzip.decompress(path_of(tmp_path).read_bytes()) == text(lines)
    assert file.lines == len(lines) and file.written == path_of(tmp_path).stat().st_size
    (day,) = read_binance(path_of(tmp_path), levels=5)
    assert day.source["lines"] == len(lines) and day.source["depth_gaps"] == 0 and day.source["snapshots"] == 1


def test_what_is_flushed_can_be_read_while_the_recorder_runs(tmp_path):
    lines = made(seconds=3).lines
    file = write(path_of(tmp_path), lines, flush_every=7)
    whole = len(lines) // 7 * 7
    assert gzip.decompress(path_of(tmp_path).read_bytes()) == text(lines[:whole])
    file.close()


def test_killed_at_any_byte_the_whole_members_stay_and_a_gap_follows_them(tmp_path):
    lines = made(seconds=3).lines
    path = path_of(tmp_path)
    write(path, lines[:40]).close()
    whole = path.stat().st_size
    torn = member(text(lines[40:60]))
    for cut in [0, 1, 5, 19, 20, 21, len(torn) // 2, len(torn) - 1]:
        path.write_bytes(path.read_bytes()[:whole] + torn[:cut])
        CaptureFile(path, BTC).close()  # writes less than was torn, and leaves nothing of that
        assert gzip.decompress(path.read_bytes()).endswith(b"}}\n") and path.stat().st_size < whole + 300
        path.write_bytes(path.read_bytes()[:whole] + torn[:cut])
        file = CaptureFile(path, BTC)
        for line in lines[60:]:
            file.add(*line)
        file.close()
        gap = lines[39][0], break_line("BTCUSDT", "spot", "recorder restarted")
        assert gzip.decompress(path.read_bytes()) == text([*lines[:40], gap, *lines[60:]])
    (day,) = read_binance(path, levels=5)
    assert day.source["depth_gaps"] == 1
    # The gap stands at the last time that was recorded: nobody knows what came after.
    lost = day.tables["status"].filter(day.tables["status"]["halted"])
    assert lost["ts_recv"].to_list()[-1] == lines[39][0]


def test_a_member_that_is_whole_is_kept_by_the_next_opening(tmp_path):
    lines = made(seconds=3).lines
    path = path_of(tmp_path)
    write(path, lines[:40]).close()
    with open(path, "ab") as file:
        file.write(member(text(lines[40:60])))
    opened = CaptureFile(path, BTC)
    opened.close()
    assert gzip.decompress(path.read_bytes()).startswith(text(lines[:60]))
    assert gzip.decompress(path.read_bytes()).count(b"recorder restarted") == 1


def test_a_file_of_somebody_else_is_refused_and_left_as_it_is(tmp_path):
    path = path_of(tmp_path)
    for content in (gzip.compress(text(made(seconds=1).lines)), b"1723161254000000000 {}\n" * 3):
        path.write_bytes(content)
        with pytest.raises(InputError, match="no file of this recorder"):
            CaptureFile(path, BTC)
        assert path.read_bytes() == content


def test_a_file_that_is_damaged_is_refused(tmp_path):
    path = path_of(tmp_path)
    write(path, made(seconds=1).lines).close()
    damaged = bytearray(path.read_bytes())
    damaged[-20] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(FeedError, match="damaged"):
        CaptureFile(path, BTC)
    assert path.read_bytes() == damaged


def test_two_recorders_do_not_write_one_file(tmp_path):
    file = write(path_of(tmp_path), made(seconds=1).lines)
    before = path_of(tmp_path).read_bytes()
    with pytest.raises(InputError, match="Another recorder"):
        CaptureFile(path_of(tmp_path), BTC)
    assert path_of(tmp_path).read_bytes() == before
    file.close()
    CaptureFile(path_of(tmp_path), BTC).close()


@pytest.mark.parametrize("taken", [0, 1, 30])
def test_a_full_disk_is_said_and_leaves_what_stood_before(tmp_path, monkeypatch, taken: int):
    lines = made(seconds=2).lines
    path = path_of(tmp_path)
    file = write(path, lines[:20])
    before, pwrite = path.read_bytes(), os.pwrite

    def full(handle: int, data: bytes, at: int) -> int:
        if at > len(before) or not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(handle, data[:taken], at)

    monkeypatch.setattr(capture.os, "pwrite", full)
    for line in lines[20:30]:
        file.add(*line)
    with pytest.raises(StoreError, match="No space left on device; 10 lines are not written"):
        file.flush()
    assert path.read_bytes() == before
    monkeypatch.undo()
    file.close()  # there is room again: nothing was lost
    assert gzip.decompress(path.read_bytes()) == text(lines[:30])


def test_a_line_goes_to_the_file_of_its_symbol_and_day(tmp_path):
    captures = Captures(tmp_path / "new")
    times = [MIDNIGHT - 2, MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 1]
    items = [Item(t, DEPTH, source, b'{"t":%d}' % t) for t in times for source in (BTC, ETH)]
    assert captures.write(items[:4]) == [] and captures.write(items[4:]) == [BTC, ETH]
    # The clock steps back over midnight: the day does not.
    assert captures.write([Item(MIDNIGHT - 5, DEPTH, BTC, b'{"late":1}')]) == [BTC, ETH]
    captures.flush()
    assert captures.lines == 9 and captures.bytes == sum(p.stat().st_size for p in (tmp_path / "new").iterdir())
    captures.close()
    assert captures.lines == 9
    names = {p.name: gzip.decompress(p.read_bytes()) for p in (tmp_path / "new").iterdir()}
    assert sorted(names) == [f"spot_{s}_{d}.gz" for s in ("btcusdt", "ethusdt") for d in (20240808, 20240809)]
    assert names["spot_btcusdt_20240809.gz"] == b"%d {\"t\":%d}\n%d {\"t\":%d}\n%d {\"late\":1}\n" % (
        MIDNIGHT, MIDNIGHT, MIDNIGHT + 1, MIDNIGHT + 1, MIDNIGHT - 5,
    )  # fmt: skip


def test_a_new_days_file_is_said_to_lack_its_snapshot_until_it_has_one(tmp_path):
    captures = Captures(tmp_path)
    assert captures.write([Item(MIDNIGHT - 2, SNAPSHOT, BTC, b"{}"), Item(MIDNIGHT - 1, DEPTH, ETH, b"{}")]) == []
    # The answer to a question of the old day, read before the turn, is none of the new one.
    turned = [Item(MIDNIGHT - 1, SNAPSHOT, BTC, b"{}"), Item(MIDNIGHT, DEPTH, BTC, b"{}"), Item(MIDNIGHT, DEPTH, ETH, b"{}")]
    assert captures.write(turned) == [BTC, ETH]
    assert captures.write([]) == [BTC, ETH] and captures.write([Item(MIDNIGHT + 1, SNAPSHOT, BTC, b"{}")]) == [ETH]
    assert captures.write([Item(MIDNIGHT + 2, SNAPSHOT, ETH, b"{}"), Item(MIDNIGHT + 3, DEPTH, ETH, b"{}")]) == []
    captures.close()


def test_one_file_that_cannot_be_written_does_not_cost_the_others(tmp_path, monkeypatch):
    captures = Captures(tmp_path)
    captures.write([Item(MIDNIGHT - 1, DEPTH, source, b"{}") for source in (BTC, ETH)])
    pwrite, files = os.pwrite, {os.readlink(f"/proc/self/fd/{file._file}"): file._file for _, file in captures._open.values()}
    broken = files[str(path_of(tmp_path, ETH))]

    def full(handle: int, data: bytes, at: int) -> int:
        if handle == broken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(handle, data, at)

    monkeypatch.setattr(capture.os, "pwrite", full)
    with pytest.raises(StoreError, match=r"ethusdt.*No space left on device"):
        captures.close()
    assert gzip.decompress(path_of(tmp_path, BTC).read_bytes()) == b"%d {}\n" % (MIDNIGHT - 1)
    assert not captures.files


def test_much_text_is_written_without_being_asked(tmp_path):
    captures = Captures(tmp_path)
    captures.write([Item(START + i, DEPTH, BTC, os.urandom(500_000).hex().encode()) for i in range(5)])
    assert path_of(tmp_path).stat().st_size > 1_000_000
    captures.close()
    assert captures.lines == 5


def test_a_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"Not a directory|File exists"):
        Captures(tmp_path / "file" / "below")
