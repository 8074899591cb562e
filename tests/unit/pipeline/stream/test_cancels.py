from __future__ import annotations

from itertools import permutations

from kintsugi.pipeline.stream.cancels import Candidate, all_match_by_sequence, match_cancels


def at(ts: int, sequence: int) -> Candidate:
    return Candidate(ts, sequence, f"{ts}/{sequence}".encode())


def test_a_cancel_takes_back_the_trade_with_its_sequence_number() -> None:
    cancel = at(50, 7)
    assert match_cancels([cancel], [at(10, 7), at(40, 8)]) == {cancel.trade_id: at(10, 7).trade_id}


def test_without_that_it_takes_back_the_latest_one_before_it() -> None:
    cancel = at(50, 99)
    assert match_cancels([cancel], [at(10, 7), at(40, 8), at(60, 9)]) == {cancel.trade_id: at(40, 8).trade_id}


def test_a_cancel_of_the_opening_report_takes_back_the_earliest_one_unless_a_number_says_otherwise() -> None:
    cancel = at(50, 99)._replace(opening=True)
    trades = [at(10, 7), at(40, 8), at(60, 9)]
    assert match_cancels([cancel], trades) == {cancel.trade_id: at(10, 7).trade_id}
    named = cancel._replace(sequence=8)
    assert match_cancels([named], trades) == {cancel.trade_id: at(40, 8).trade_id}


def test_no_earlier_trade_matters_once_each_cancel_has_found_its_number_before_it() -> None:
    assert all_match_by_sequence([at(50, 7)], [at(10, 7)])
    assert not all_match_by_sequence([at(50, 7)], [at(60, 7)]), "later than the cancel"
    assert not all_match_by_sequence([at(50, 7), at(51, 7)], [at(10, 7)]), "one trade for two cancels"


def test_a_trade_is_taken_back_once_and_never_by_an_earlier_cancel() -> None:
    assert match_cancels([at(50, 7), at(51, 7)], [at(10, 7)]) == {at(50, 7).trade_id: at(10, 7).trade_id}
    assert match_cancels([at(9, 7)], [at(10, 7)]) == {}
    assert match_cancels([at(50, 7)], []) == {}


def test_the_order_of_arrival_is_nothing_to_it() -> None:
    cancels, trades = [at(50, 7), at(60, 99), at(70, 98)], [at(10, 7), at(20, 8), at(20, 9), at(65, 1)]
    answers = [match_cancels(c, t) for c in permutations(cancels) for t in permutations(trades)]
    assert all(answer == answers[0] for answer in answers)
    assert len(answers[0]) == 3
