"""Seconds of phases."""

import time

from rollhouse.train.grpo.metrics import Stopwatch


def test_a_phase_inside_another_is_taken_off_it(monkeypatch):
    now = iter([0.0, 1.0, 2.0, 5.0, 6.0, 6.5, 10.0, 11.0, 12.0, 20.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    began = []
    watch = Stopwatch(began.append)
    with watch("train"):  # 1 to 10
        with watch("store"):  # 2 to 5
            pass
        with watch("sync"):  # 6 to 6.5
            pass
    with watch("store"):  # 11 to 12
        pass
    assert watch.seconds == {"train": 5.5, "store": 4.0, "sync": 0.5}
    assert watch.total() == 20 and began == ["train", "store", "train", "sync", "train", "store"]
