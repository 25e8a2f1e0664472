"""A lending library: an environment in one file.

    rollhouse collect --env examples/library_desk.py --engine scripted --limit 20

Each task is a reader's request. The policy solves it with four tools; the verdict compares the final books and loans.
"""

import copy
import random
from collections.abc import Iterator
from typing import Any, Literal

from rollhouse.environments.tools import ToolSession, schema_of, tool_session
from rollhouse.store.messages import Message
from rollhouse.store.task import Score, Task

TITLES = [
    "Tide Tables", "The Glass Orchard", "Bread and Salt", "A Map of Winds", "Nine Lanterns", "The Quiet Engine", "Paper Boats", "Salt Road",
    "Winter Ferry", "The Copper Hour", "Small Rivers", "A Field of Clocks", "The Lamp Maker", "Green Stairs", "Low Water", "The Ninth Bell",
]  # fmt: skip
READERS = ["Amira", "Bo", "Chen", "Dagny", "Emeka", "Farah", "Goran", "Hana", "Idris", "Jun", "Kofi", "Lena"]
SYSTEM = "You are at the desk of a small library. Do what the reader asks with the tools, then answer in one sentence."

State = dict[str, Any]  # {"books": {book id: title}, "loans": {book id: reader}, "waiting": {book id: [readers]}}


class Desk:
    """The library during one episode."""

    def __init__(self, state: State) -> None:
        self.state = copy.deepcopy(state)

    def find_books(self, title: str, only: Literal["all", "available"] = "all") -> list[dict[str, Any]]:
        """Finds books by words of their title.

        Args:
            title: Part of the title, in any case.
            only: `available` leaves out books that are lent.
        """
        loans = self.state["loans"]
        found = {id: name for id, name in self.state["books"].items() if title.lower() in name.lower()}
        return [
            {"book_id": id, "title": name, "lent_to": loans.get(id)}
            for id, name in found.items()
            if only == "all" or id not in loans
        ]

    def lend_book(self, book_id: str, reader: str) -> str:
        """Lends a book to a reader. A book that is lent cannot be lent again.

        Args:
            book_id: As find_books gives it.
            reader: First name of the reader.
        """
        self._known(book_id)
        if book_id in self.state["loans"]:
            raise ValueError(f"{book_id} is lent to {self.state['loans'][book_id]}")
        self.state["loans"][book_id] = reader
        return "lent"

    def take_back(self, book_id: str) -> str:
        """Takes a lent book back.

        Args:
            book_id: As find_books gives it.
        """
        if self.state["loans"].pop(book_id, None) is None:
            raise ValueError(f"{book_id} is not lent")
        return "taken back"

    def put_on_list(self, book_id: str, reader: str) -> int:
        """Puts a reader on the waiting list of a book and returns the place on it.

        Args:
            book_id: As find_books gives it.
            reader: First name of the reader.
        """
        self._known(book_id)
        waiting = self.state["waiting"].setdefault(book_id, [])
        waiting.append(reader)
        return len(waiting)

    def _known(self, book_id: str) -> None:
        if book_id not in self.state["books"]:
            raise ValueError(f"there is no book {book_id!r}")


TOOLS = ("find_books", "lend_book", "take_back", "put_on_list")


class LibraryDesk:
    """The environment: its name, its tasks, and how a session of one starts."""

    name = "library-desk"

    def __init__(self, seed: int = 0, n: int = 200) -> None:
        self.seed, self.n = seed, n

    def tasks(self, split: str) -> Iterator[Task]:
        """`n` tasks of each split, or fewer if there are not enough. The split follows from the request, so no two splits share one."""
        draw = random.Random(f"{self.seed} {split}")
        tools = tuple(schema_of(getattr(Desk, tool)) for tool in TOOLS)
        made: set[str] = set()
        for _ in range(100 * self.n):
            if len(made) == self.n:
                return
            state, request, calls = _request(draw)
            if _split_of(request) == split and request not in made:
                made.add(request)
                messages = (Message("system", SYSTEM), Message("user", request))
                yield Task(
                    self.name, messages, tools, ground_truth=calls, state=state, split=split, category=calls[-1]["name"]
                )

    def start(self, task: Task) -> ToolSession:
        """A fresh desk; the task is solved when it ends as the calls of its ground truth leave another one."""
        desk, wanted = Desk(task.state), Desk(task.state)
        for call in task.ground_truth:
            getattr(wanted, call["name"])(**call["arguments"])

        def verify(session: ToolSession) -> Score:
            solved = desk.state == wanted.state
            return Score(float(solved), solved, "library-desk", "1", (("calls", float(len(session.calls)), 0.0),))

        return tool_session([getattr(desk, tool) for tool in TOOLS], verify)


def _request(draw: random.Random) -> tuple[State, str, list[dict[str, Any]]]:
    """A library, a reader's request, and the calls that fulfil it."""
    titles = draw.sample(TITLES, 5)
    books = {f"B{draw.randrange(100, 1000)}{i}": title for i, title in enumerate(titles)}
    lent, free = list(books)[:2], list(books)[2:]
    reader, other = draw.sample(READERS, 2)
    state = {"books": books, "loans": {lent[0]: other, lent[1]: reader}, "waiting": {}}
    kind = draw.choice(["lend", "return", "wait", "swap"])
    if kind == "lend":
        book = draw.choice(free)
        return state, f"{reader} here. May I take {books[book]} home?", [_call("lend_book", book, reader)]
    if kind == "return":
        return state, f"I am {reader} and I bring back {books[lent[1]]}.", [_call("take_back", lent[1])]
    if kind == "wait":
        return state, f"Put me, {reader}, on the list for {books[lent[0]]}, please.", [_call("put_on_list", lent[0], reader)]  # fmt: skip
    book = draw.choice(free)
    request = f"{reader}: I return {books[lent[1]]} and would like {books[book]} instead."
    return state, request, [_call("take_back", lent[1]), _call("lend_book", book, reader)]


def _call(name: str, book_id: str, reader: str | None = None) -> dict[str, Any]:
    arguments = {"book_id": book_id} if reader is None else {"book_id": book_id, "reader": reader}
    return {"name": name, "arguments": arguments}


def _split_of(request: str) -> str:
    place = random.Random(request).random()
    return "train" if place < 0.6 else "validation" if place < 0.8 else "test"
