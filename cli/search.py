"""`rollhouse search`: rollouts by the words in them, or by an embedding."""

from typing import Annotated

import typer

from ..base.errors import ConfigError
from .common import AtOption, Format, FormatOption, ScorerOption, StoreOption, open_store, print_rows, say

RunOption = Annotated[str | None, typer.Option("--run", help="Only the rollouts of this run.")]
EnvironmentOption = Annotated[str | None, typer.Option("--environment", help="Only those of this environment.")]
StatusOption = Annotated[str | None, typer.Option("--status", help="Only those that ended so: completed, truncated, …")]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", help="A condition on the columns of `rollouts`: 'reward < 0.5 and n_turns > 3'."),
]
LikeOption = Annotated[
    str | None, typer.Option("--like", metavar="ROLLOUT_ID", help="Nearest to this rollout instead.")
]
ColumnOption = Annotated[str, typer.Option("--column", help="The embedding column that --like compares.")]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("search")(search)


def search(
    text: Annotated[str | None, typer.Argument(metavar="[WORDS]", help="Words to look for.")] = None,
    run: RunOption = None,
    environment: EnvironmentOption = None,
    status: StatusOption = None,
    where: WhereOption = None,
    prompts: Annotated[bool, typer.Option("--prompts", help="Search prompts: one row each.")] = False,
    like: LikeOption = None,
    column: ColumnOption = "embedding",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 10,
    store: StoreOption = None,
    at: AtOption = None,
    scorer: ScorerOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Find rollouts whose messages or tool calls match the words, best first; the first search makes the index.

    rollhouse search "meeting cancelled" --environment workplace --where "reward = 0"
    """
    from ..queries import search as searching

    if (text is None) == (like is None):
        raise ConfigError("Search for words, or with --like for a rollout's neighbours.", 'rollhouse search "words"')
    place = open_store(store)
    if prompts and (like or run or environment or status or where or at):
        raise ConfigError("--prompts takes no filter.", "Leave it out, or leave the filters out.")
    filters = {"run": run, "environment": environment, "status": status, "where": where, "at": at}
    shared = {"scorer": scorer, "limit": limit}
    if prompts:
        print_rows(searching.search_prompts(place, text or "", **shared), format)
        return
    if like is not None:
        found = searching.nearest(place, column, searching.vector_of(place, column, like), **filters, **shared)
    else:
        found = searching.search(place, text or "", **filters, **shared)
    if format is Format.table:
        last = "match" if like is None else "distance"
        found = found.select(["rollout_id", "run_id", "status", "reward", last])
    print_rows(found, format)
    if not found.num_rows:
        say("no rollout matches; words such as `not` and `the` are left out of the index", stderr=True)
