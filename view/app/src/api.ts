// Reads JSON from the server, and again when the store has changed.
import { useEffect, useRef, useState } from "preact/hooks";
import { bundle, fromBundle, NotInBundle } from "./bundle";

export class ApiError extends Error {
  constructor(
    message: string,
    readonly fix: string,
  ) {
    super(message);
  }
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  if (bundle) {
    try {
      return (await fromBundle(path)) as T;
    } catch (error) {
      if (error instanceof NotInBundle) throw new ApiError("This bundle does not hold that.", "Open the store with `rollhouse view`.");
      throw error;
    }
  }
  let response: Response;
  try {
    response = await fetch(`/api/${path}`, { signal, headers: { Accept: "application/json" } });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The viewer's server does not respond.", "Start `rollhouse view` again; this page goes on by itself.");
  }
  const body = await response.json();
  if (!response.ok) throw new ApiError(body.error ?? response.statusText, body.fix ?? "");
  return body as T;
}

/** Sends JSON; the answer as `get` gives it. */
export async function post<T>(path: string, body: unknown): Promise<T> {
  const response = await fetch(`/api/${path}`, { method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new ApiError(answer.error ?? response.statusText, answer.fix ?? "");
  return answer as T;
}

export function api(store: string, what: string, id = "", query: URLSearchParams | Record<string, string> = {}): string {
  const text = new URLSearchParams(query).toString();
  return [store, what, ...(id ? [id] : [])].map(encodeURIComponent).join("/") + (text ? `?${text}` : "");
}

export interface Loaded<T> {
  data?: T;
  error?: ApiError;
  loading: boolean;
}

/** The answer of a path; while another path or a later state loads, the last answer stays. */
export function useData<T>(path: string | null, live = ""): Loaded<T> {
  const [state, setState] = useState<Loaded<T>>({ loading: true });
  const shown = useRef<string | null>(null);
  const first = useRef("");
  // The first stamp only says what the answer under way is of.
  if (!first.current) first.current = live;
  const since = live === first.current ? "" : live;
  useEffect(() => {
    if (path === null) return;
    const abort = new AbortController();
    if (shown.current !== path) setState((before) => ({ data: before.data, loading: true }));
    get<T>(path, abort.signal).then(
      (data) => {
        shown.current = path;
        setState({ data, loading: false });
      },
      (error) => {
        if (!abort.signal.aborted) setState({ error, loading: false });
      },
    );
    return () => abort.abort();
  }, [path, since]);
  return state;
}

const EVERY_MS = 1500;

/** The store's stamp, looked up every second and a half while the page is visible. */
export function useStamp(store: string): { stamp: string; online: boolean } {
  const [state, setState] = useState({ stamp: "", online: true });
  useEffect(() => {
    if (!store) return;
    let ended = false;
    const look = async () => {
      if (document.hidden) return;
      try {
        const { stamp } = await get<{ stamp: string }>(api(store, "stamp"));
        if (!ended) setState((before) => (before.stamp === stamp && before.online ? before : { stamp, online: true }));
      } catch {
        if (!ended) setState((before) => ({ ...before, online: false }));
      }
    };
    void look();
    const timer = setInterval(look, EVERY_MS);
    return () => {
      ended = true;
      clearInterval(timer);
    };
  }, [store]);
  return state;
}
