"""Blocks, folds and the purge: a training label never reaches what is predicted."""

from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cift_models.errors import EmptyRange, InputError
from cift_models.files import canonical_json
from cift_models.instruments import CALENDARS, SECOND, Session
from cift_models.splits import (
    PURGE_NS,
    BlockCalendar,
    block_calendar,
    decision_rows,
    learned,
    level0_folds,
    level1_folds,
    level2_folds,
    level3_folds,
    training_rows,
)
from tests.panels import toy_panel


def sessions_of(minutes: list[int]) -> list[Session]:
    first = date(2023, 11, 1)
    out = []
    for i, length in enumerate(minutes):
        day = first + timedelta(days=i)
        start = 1_700_000_000 * SECOND + i * 86_400 * SECOND
        out.append(Session(int(day.strftime("%Y%m%d")), start, start + length * 60 * SECOND))
    return out


@st.composite
def calendars(draw):
    minutes = draw(st.lists(st.integers(3, 40), min_size=1, max_size=13))
    sessions = sessions_of(minutes)
    test_from = draw(st.none() | st.integers(1, len(minutes) - 1).map(lambda i: sessions[i].day)) if len(minutes) > 1 else None
    horizon = draw(st.sampled_from([1, 2, 5])) * SECOND
    return sessions, horizon, block_calendar(sessions, SECOND, horizon, test_from), test_from


def test_the_lobster_day_has_its_22_200_rows():
    session = CALENDARS["us_equity"].session(date(2012, 6, 21))
    rows = decision_rows(session, SECOND, SECOND)
    seconds = (rows - session.open) // SECOND + 34_200
    assert (len(rows), seconds[0], seconds[-1]) == (22_200, 34_800, 57_000 - 1)
    calendar = block_calendar([session])
    assert [calendar.n_rows(b) for b in range(10)] == [2_220] * 10
    assert (calendar.first(7) - session.open) // SECOND + 34_200 == 34_800 + 7 * 2_220


@settings(max_examples=60, deadline=None)
@given(calendars())
def test_blocks_partition_the_decision_rows_in_time_order(drawn):
    sessions, horizon, calendar, _ = drawn
    count = np.zeros(0, int)
    for session in sessions:
        rows = decision_rows(session, SECOND, horizon)
        hits = sum(calendar.mask(session.day, rows, [b]).astype(int) for b in range(10))
        count = np.concatenate([count, hits])
        around = np.arange(session.open, session.close, SECOND)
        assert calendar.mask(session.day, around, range(10)).sum() == len(rows)
        assert (rows + horizon <= session.close - session.margin).all()
    assert (count == 1).all() and sum(calendar.n_rows(b) for b in range(10)) == len(count)
    for b in range(9):
        assert calendar.last(b) < calendar.first(b + 1)


@settings(max_examples=60, deadline=None)
@given(calendars(), st.sampled_from([0, 1, 100, 1000]))
def test_no_training_label_and_purge_reaches_the_predicted_part(drawn, latency_ms):
    sessions, horizon, calendar, _ = drawn
    for fold in (*level0_folds(), *level1_folds(), *level2_folds(), *level3_folds()):
        start_of_next = calendar.first(max(fold.train) + 1)
        first_predicted = min(calendar.first(b) for b in fold.predict)
        kept = 0
        for session in sessions:
            as_of = decision_rows(session, SECOND, horizon)
            label_end = as_of + latency_ms * 1_000_000 + horizon
            rows = training_rows(calendar, session.day, as_of, label_end, fold.train)
            assert (label_end[rows] + PURGE_NS < first_predicted).all() and (label_end[rows] + PURGE_NS < start_of_next).all()
            in_blocks = calendar.mask(session.day, as_of, fold.train)
            assert not (rows & ~in_blocks).any()
            # Nothing else is dropped: forward look-back and earlier boundaries are not purged.
            assert np.array_equal(rows, in_blocks & (label_end + PURGE_NS < start_of_next))
            kept += rows.sum()
        assert set(fold.train).isdisjoint(fold.predict) and max(fold.train) < min(fold.predict)
        assert kept <= sum(calendar.n_rows(b) for b in fold.train)


def test_the_purge_drops_eleven_rows_at_one_second_and_none_without():
    session = sessions_of([120])[0]
    calendar = block_calendar([session])
    as_of = decision_rows(session, SECOND, SECOND)
    for purge, lost in ((PURGE_NS, 10 + 1), (None, 0)):
        rows = training_rows(calendar, session.day, as_of, as_of + SECOND, range(6), purge)
        assert calendar.mask(session.day, as_of, range(6)).sum() - rows.sum() == lost
    assert training_rows(calendar, session.day, as_of, as_of + SECOND, range(10)).sum() == len(as_of)


def test_folds_are_those_of_the_levels():
    assert [(f.train, f.predict) for f in level0_folds()][:5] == [(tuple(range(k)), (k,)) for k in range(1, 6)]
    assert [(f.train, f.predict) for f in level1_folds()] == [
        ((1, 2), (3,)),
        ((1, 2, 3), (4,)),
        ((1, 2, 3, 4), (5,)),
        ((1, 2, 3, 4, 5), (6, 7, 8, 9)),
    ]
    assert [(f.train, f.predict) for f in level3_folds()] == [((4,), (5,)), ((4, 5), (6, 7, 8, 9))]
    assert [(f.train, f.predict) for f in level2_folds()] == [((3,), (4,)), ((3, 4), (5,)), ((3, 4, 5), (6, 7, 8, 9))]
    for folds in (level0_folds(), level1_folds(), level2_folds(), level3_folds()):
        assert [f.stop for f in folds] == [()] * (len(folds) - 1) + [(6,)] and folds[-1].name == "final"
    # Every out-of-fold column a higher level learns from was made by a lower one.
    lower = {b for f in level0_folds()[:-1] for b in f.predict}
    middle = {b for f in level1_folds()[:-1] for b in f.predict}
    upper = {b for f in level2_folds()[:-1] for b in f.predict}
    assert set(level1_folds()[-1].train) <= lower and set(level2_folds()[-1].train) <= middle and set(level3_folds()[-1].train) <= upper


def test_ten_sessions_give_whole_sessions_and_nine_give_equal_runs():
    ten = block_calendar(sessions_of([30] * 12))
    assert [len(b) for b in ten.blocks] == [1, 1, 1, 1, 2, 1, 1, 1, 1, 2] and ten.sessions([4]) == (20231105, 20231106)
    nine = block_calendar(sessions_of([30] * 9))
    assert len({nine.n_rows(b) for b in range(10)}) <= 2 and any(len(b) == 2 for b in nine.blocks)


def test_test_from_splits_at_the_day():
    sessions = sessions_of([30, 30, 45])
    calendar = block_calendar(sessions, test_from=date(2023, 11, 3))
    assert calendar == block_calendar(sessions, test_from=20231103)
    assert calendar.sessions([7, 8, 9]) == (20231103,) and calendar.sessions(range(7)) == (20231101, 20231102)
    assert max(calendar.n_rows(b) for b in (7, 8, 9)) - min(calendar.n_rows(b) for b in (7, 8, 9)) <= 1
    with pytest.raises(EmptyRange, match="ten blocks"):
        block_calendar(sessions, test_from=date(2024, 1, 1))


def test_a_calendar_is_json():
    calendar = block_calendar(sessions_of([30, 20]))
    import orjson

    assert BlockCalendar.from_json(orjson.loads(canonical_json(calendar.as_json()))) == calendar


def test_too_few_rows_and_wrong_order_are_refused():
    with pytest.raises(EmptyRange):
        block_calendar([Session(20231101, 0, 8 * SECOND)])
    with pytest.raises(InputError, match="time order"):
        block_calendar(sessions_of([30, 30])[::-1])


def test_a_fit_has_learned_until_its_last_usable_label_and_the_last_row_that_it_was_shown():
    panel = toy_panel(steps=60)
    assert learned([panel]) == (panel.label_end[panel.rows].max(), panel.as_of[-1])
    assert learned([panel]).max_train_t1 == panel.as_of[-1] and learned([panel.until(30)]).max_train_t1 == panel.label_end[29]
    panel.base_oof[30:] = False
    assert learned([panel], out_of_fold=True).label == panel.label_end[29]
    panel.valid[25:] = False
    found = learned([panel, panel.until(10)])
    assert found == (panel.label_end[24], panel.as_of[59])
    assert found.max_train_t1 == panel.as_of[59] and found.free_from() == panel.as_of[59] + 1
    assert learned([panel.until(26)]).free_from() == panel.label_end[24] + PURGE_NS + 1
    assert learned([panel.until(25)]).free_from(None) == panel.label_end[24]
    panel.rows[:] = False
    with pytest.raises(EmptyRange):
        learned([panel])
