"""What is worked out once for tasks that share their tools, and the ids that must not change by it."""

from rollhouse.base.remembered import remembered
from rollhouse.store.ids import prompt_id, task_id
from rollhouse.store.messages import Message
from rollhouse.store.task import Task


def test_an_object_is_worked_out_once_and_another_one_anew() -> None:
    requested: list[list[int]] = []

    def total(of: list[int]) -> int:
        requested.append(of)
        return sum(of)

    get = remembered(total, 2)
    one, equal, third = [1, 2], [1, 2], [4]
    assert [get(one), get(one), get(equal), get(equal)] == [3, 3, 3, 3] and len(requested) == 2
    assert get(third) == 4 and get(one) == 3 and len(requested) == 4, "the oldest of three was forgotten"


def test_a_task_has_the_ids_that_its_content_gives() -> None:
    tools = ({"type": "function", "function": {"name": "é", "parameters": {"b": 1, "a": [None, 1.5]}}},)
    tasks = [Task("e", (Message("system", 'say "ü"'), Message("user", f"{n}\n")), tools, ground_truth=[n], state={"x": n}) for n in range(3)]  # fmt: skip
    for task in [*tasks, Task("e", (), ())]:
        prompt = prompt_id([message.to_openai() for message in task.messages], [dict(tool) for tool in task.tools])
        assert task.prompt_id == prompt
        assert task.task_id == task_id("e", prompt, task.ground_truth, task.state_hash)
    assert len({task.task_id for task in tasks}) == 3
