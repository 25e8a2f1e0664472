"""`rollhouse serve`: an OpenAI-compatible server, so that any agent can be the agent, and what it asks becomes rollouts."""

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from ..base.errors import ConfigError
from .common import Format, FormatOption, StoreOption, console, make_store, print_summary

if TYPE_CHECKING:
    from ..serve.job import Listening


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve")(serve)


def serve(
    engine: Annotated[str, typer.Option(help="vllm, torch or openai:URL.")],
    model: Annotated[str | None, typer.Option(help="Checkpoint, run, model folder or hub name; for an endpoint, the name it serves.")] = None,
    served_name: Annotated[str | None, typer.Option(help="The model's name for clients [default: what --model says].")] = None,
    env: Annotated[str, typer.Option("--env", help="Environment of the recorded rollouts.")] = "served",
    run: Annotated[str | None, typer.Option(help="The run's name; one that exists is continued.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; one that others reach needs an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one and prints it.")] = 8000,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with the key that clients must send.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The key itself; other users of this machine can see it here.")] = None,
    idle_limit: Annotated[float | None, typer.Option(help="Seconds without a call that end a rollout as timeout [default: none].")] = None,
    require_id: Annotated[bool, typer.Option("--require-id", help="Refuse calls without a rollout id instead of not recording them.")] = False,
    max_model_len: Annotated[int | None, typer.Option(help="Context of the engine [default: the model's, at most 4096].")] = None,
    chat_template: Annotated[str | None, typer.Option(help="Jinja file in place of the model's chat template.")] = None,
    enable_thinking: Annotated[bool | None, typer.Option("--enable-thinking/--no-enable-thinking", help="The template's setting of that name.")] = None,
    tool_parser: Annotated[str, typer.Option(help="hermes, or the name of one of vLLM's parsers.")] = "hermes",
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="GPUs a copy of the model is spread over (vllm).")] = 1,
    data_parallel_size: Annotated[int, typer.Option(min=1, help="Copies of the model (vllm).")] = 1,
    store: StoreOption = None,
    format: FormatOption = Format.table,
) -> None:  # fmt: skip
    """Serve a model to any agent and record what it asks, as rollouts under the ids it sends.

    Examples: `rollhouse serve --engine vllm --model ./model --run agents`;
    `rollhouse serve --engine torch --model ./model --port 0 --idle-limit 600`.
    """
    from ..policies.chat_options import ChatOptions
    from ..policies.opening import loads_model
    from ..serve.job import ServeJob, run_server
    from ..train.checkpoints import resolve_model

    if api_key_env is not None:
        if api_key is not None:
            raise ConfigError("--api-key and --api-key-env both name a key.", "Use one of them.")
        api_key = os.environ.get(api_key_env)
        if not api_key:
            raise ConfigError(f"The environment variable {api_key_env} is not set.", "Put the key in it.")
    place = make_store(store)
    if served_name is None:
        served_name = model
    if model is not None and loads_model(engine):
        model = str(resolve_model(place, model))
    job = ServeJob(
        engine=engine, model=model, served_name=served_name, environment=env, host=host, port=port, api_key=api_key,
        idle_limit_s=idle_limit, require_id=require_id, max_model_len=max_model_len,
        chat=ChatOptions(chat_template, enable_thinking, tool_parser=tool_parser),
        tensor_parallel_size=tensor_parallel_size, data_parallel_size=data_parallel_size,
    )  # fmt: skip
    summary = run_server(place, job, run, lambda listening: _print_address(listening, format))
    print_summary(summary, format, "served")
    if summary["open"]:
        said = f"{summary['open']} rollouts are still open and stay in the journal: the same command with --run {summary['run_id']} goes on with them."
        console(stderr=True).print(said, soft_wrap=True)


def _print_address(listening: "Listening", format: Format) -> None:
    """One line on stdout, at once: whoever started the server waits for it."""
    if format is Format.json:
        ready = {"url": listening.url, "base_url": f"{listening.url}/v1", "run_id": listening.run_id, "model": listening.model, "open": listening.open}  # fmt: skip
        print(json.dumps(ready), flush=True)
        return
    print(f"Serving {listening.model} at {listening.url}/v1 (run {listening.run_id})", flush=True)
    if listening.open:
        print(f"{listening.open} rollouts of an earlier server are open and go on.", flush=True)
    if not listening.keeps_calls:
        print("A store on an object store keeps no journal: open rollouts are lost with the server.", flush=True)
