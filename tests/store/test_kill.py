"""A real writer process is killed and started again: what it acknowledged is there, and nothing is there twice."""

import pytest
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.store.kills import kill_often


def test_killed_and_resumed_nothing_is_lost_and_nothing_is_twice(store: LanceStore) -> None:
    done = kill_often(store, 2, seed=7)
    assert done["added"] >= 30


@pytest.mark.system
def test_killed_thirty_times_at_random_moments(store: LanceStore) -> None:
    done = kill_often(store, 30, seed=1)
    # The kills did hit it at work, and between an addition and its commit.
    assert done["early"] < 30 and done["from_journal"] > 0
