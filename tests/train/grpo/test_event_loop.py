"""Training from a thread with a running event loop, as a notebook's cell is."""

import asyncio

from rollhouse.store.runs import get_run


def test_a_run_is_trained_under_a_running_event_loop(prompt_store, configure, train_here):
    config = configure(run="notebook", grpo__max_num_steps=1)

    async def cell():
        return train_here(config)

    row = asyncio.run(cell())
    assert row["step"] == 1 and get_run(prompt_store, "notebook")["status"] == "finished"
