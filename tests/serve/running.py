"""A real server in a thread of its own, over the tiny policy behind the torch engine."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import httpx
from openai import DefaultHttpxClient, OpenAI
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.types import Policy
from rollhouse.serve.config import ServeConfig, ServedPolicy, ServerSettings
from rollhouse.serve.job import Listening, bind, serve_policy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run


class Server:
    """A running server and a client of it."""

    def __init__(self, listening: Listening, store: LanceStore, policy: Policy, api_key: str | None) -> None:
        self.url, self.run_id, self.store, self.policy = listening.url, listening.run_id, store, policy
        self.listening = listening
        self._http = httpx.Client(base_url=self.url, verify=False, timeout=120)
        self.client = self.openai(api_key=api_key)

    def openai(self, path: str = "/v1", api_key: str | None = None, **settings: Any) -> Any:
        """A client without retries."""
        # Certificates are of no use here, and a client takes longer to read them than a call to be answered.
        http = DefaultHttpxClient(verify=False)
        return OpenAI(base_url=self.url + path, api_key=api_key or "none", max_retries=0, http_client=http, **settings)

    def get(self, path: str) -> httpx.Response:
        """A plain GET."""
        return self._http.get(path)

    def post(self, path: str, body: Any = None, **settings: Any) -> httpx.Response:
        """A plain POST of JSON."""
        how = settings if "content" in settings else {"json": body if body is not None else {}, **settings}
        return self._http.post(path, **how)

    def rows(self, **where: Any) -> list[dict[str, Any]]:
        """The run's rollouts, main branches first."""
        rows = [row for row in self.store.read("rollouts").to_pylist() if row["run_id"] == self.run_id]
        rows = [row for row in rows if all(row[name] == value for name, value in where.items())]
        return sorted(rows, key=lambda row: (row["agent"], row["branch"]))


@contextlib.contextmanager
def serving(store: LanceStore, policy: Policy, run_name: str | None = None, **settings: Any) -> Iterator[Server]:
    """Serves the policy until the block is left."""
    policy_settings = ServedPolicy(engine="torch", model_name=str(settings.pop("model", "tiny")))
    environment = settings.pop("environment", "served")
    server = ServerSettings(port=0, **settings)
    config = ServeConfig(policy=policy_settings, environment=environment, server=server)
    ready: list[Listening] = []
    failure: list[BaseException] = []
    begun = threading.Event()

    def on_ready(listening: Listening) -> None:
        ready.append(listening)
        begun.set()

    def serve() -> None:
        try:
            with bind(server.host, 0, server.api_key) as listener, start_run(store, "collect", run_name) as run:
                run.finish(asyncio.run(serve_policy(store, run, {None: policy}, config, listener, on_ready)))
        except BaseException as error:
            failure.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    begun.wait(60)
    try:
        if not ready:
            raise failure[0]
        yield Server(ready[0], store, policy, server.api_key)
    finally:
        if ready:
            with contextlib.suppress(RuntimeError):  # its loop has ended already
                ready[0].stop()
        thread.join(60)
    if failure:
        raise failure[0]


class Watched:
    """An engine that remembers what it was given and what it gave."""

    def __init__(self, engine: TorchEngine) -> None:
        self.engine = engine
        self.seen: list[tuple[list[int], list[int]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def generate(self, prompt_ids: list[int], sampling: Any, *on_tokens: Any) -> Any:
        generation = await self.engine.generate(prompt_ids, sampling, *on_tokens)
        self.seen.append((list(prompt_ids), list(generation.token_ids)))
        return generation
