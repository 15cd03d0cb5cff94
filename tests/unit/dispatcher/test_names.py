"""Names of workers: each once, lowest number first, as plain calls."""

from __future__ import annotations

import random

from spyglass.dispatcher.names import Names


def test_a_second_worker_of_a_name_gets_a_number() -> None:
    names = Names()
    assert [names.take("attic") for _ in range(3)] == ["attic", "attic#2", "attic#3"]


def test_a_number_that_is_free_again_is_given_first() -> None:
    names = Names()
    for _ in range(4):
        names.take("attic")
    names.release("attic#2")
    assert [names.take("attic") for _ in range(2)] == ["attic#2", "attic#5"]


def test_a_long_name_stays_within_what_the_protocol_allows() -> None:
    names = Names()
    assert names.take("n" * 64) == "n" * 64
    assert names.take("n" * 64) == "n" * 58 + "#2"


def test_it_gives_what_a_search_from_the_start_would_give() -> None:
    # Also names that look like numbered ones, and numbers no machine word holds.
    chance = random.Random(3)
    names = Names()
    taken: set[str] = set()
    for _ in range(3000):
        if taken and chance.random() < 0.45:
            gone = chance.choice(sorted(taken))
            taken.remove(gone)
            names.release(gone)
            continue
        wanted = chance.choice(["a", "a#2", "a#1", "b", "b#", "a#²", f"a#{9**60}"])
        numbered = (f"{wanted[:58]}#{n}" for n in range(2, 5000))
        expected = wanted if wanted not in taken else next(n for n in numbered if n not in taken)
        assert names.take(wanted) == expected
        taken.add(expected)


def test_nothing_is_kept_of_names_that_are_gone() -> None:
    names = Names()
    for number in range(100):
        gone = [names.take(f"w{number}") for _ in range(3)]
        for name in gone:
            names.release(name)
    assert not names._taken and not names._free_from
