"""What a worker did not acknowledge in time, by plain calls; the clock is a float."""

from __future__ import annotations

from spyglass.dispatcher.worker_state import Silence


def test_a_worker_without_a_message_since_the_request_was_sent_is_silent() -> None:
    silence = Silence(last_message=1.0)
    assert silence.ack_timed_out(b"cat", sent=1.0, most=4, now=1.3)
    assert silence.silent and silence.last_ack_timeout == 1.3


def test_a_worker_that_sent_another_message_since_is_not_silent() -> None:
    silence = Silence(last_message=1.0)
    assert not silence.message_came(1.1)
    silence.ack_timed_out(b"cat", sent=1.0, most=4, now=1.3)
    assert not silence.silent


def test_any_message_ends_a_silence_once() -> None:
    silence = Silence(last_message=1.0)
    silence.ack_timed_out(b"cat", sent=1.0, most=4, now=1.3)
    assert silence.message_came(1.5)
    assert not silence.message_came(1.6)
    assert not silence.silent and silence.last_message == 1.6


def test_all_timeouts_of_one_pause_begin_it_once() -> None:
    silence = Silence(last_message=1.0)
    begins = [silence.ack_timed_out(b"%d" % n, 1.0 + n / 10, 4, 1.3 + n / 10) for n in range(3)]
    assert begins == [True, False, False]
    silence.message_came(2.0)
    assert silence.ack_timed_out(b"eel", sent=1.9, most=4, now=2.2), "another pause"


def test_a_message_that_is_older_than_the_pause_does_not_begin_another_one() -> None:
    silence = Silence(last_message=1.0)
    silence.ack_timed_out(b"cat", sent=1.0, most=4, now=1.3)
    silence.message_came(1.3)
    assert not silence.ack_timed_out(b"dog", sent=1.2, most=4, now=1.5)


def test_each_abandoned_attempt_explains_one_late_reply() -> None:
    silence = Silence(last_message=1.0)
    for _ in range(2):
        silence.ack_timed_out(b"cat", sent=1.0, most=4, now=1.3)
    assert [silence.late_reply(b"cat") for _ in range(3)] == [True, True, False]
    assert not silence.late_reply(b"dog") and not silence.abandoned


def test_the_earliest_abandoned_is_forgotten_beyond_the_most() -> None:
    silence = Silence(last_message=1.0)
    for request_id in (b"cat", b"dog", b"cat", b"eel"):
        silence.ack_timed_out(request_id, sent=1.0, most=2, now=1.3)
    assert silence.abandoned == {b"cat": 2, b"eel": 1}, "the dog's is the earliest of three"


def test_the_bytes_on_the_way_are_those_sent_and_not_yet_arrived_or_taken_back() -> None:
    silence = Silence(last_message=1.0)
    assert silence.request_sent(30) == 30
    assert silence.request_sent(12) == 42
    silence.request_off_the_way(30)
    assert silence.bytes_on_the_way == 12
