// Where the page is, entirely in the URL's fragment: #/STORE/PAGE/ID?filter=…
import { useEffect, useState } from "preact/hooks";

export interface Route {
  store: string;
  page: string;
  id: string;
  query: URLSearchParams;
}

export function readRoute(hash = location.hash): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s, 2);
  const [store = "", page = "", ...rest] = path.split("/").map(decode);
  return { store, page, id: rest.join("/"), query: new URLSearchParams(query) };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a page. Names with an empty value are left out. */
export function href(store: string, page: string, id = "", query: URLSearchParams | Record<string, string> = {}): string {
  const search = new URLSearchParams(query);
  for (const name of [...search.keys()]) if (search.get(name) === "") search.delete(name);
  const path = [store, page, id].filter((part) => part !== "").map(encodeURIComponent).join("/");
  const text = search.toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

export function go(to: string, replace = false): void {
  if (to === location.hash) return;
  if (replace) {
    history.replaceState(history.state, "", to);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = to;
}

/** Sets or (with null) removes parameters of the present page. */
export function withQuery(route: Route, changes: Record<string, string | string[] | null>): string {
  const query = new URLSearchParams(route.query);
  for (const [name, value] of Object.entries(changes)) {
    query.delete(name);
    for (const one of value === null ? [] : [value].flat()) query.append(name, one);
  }
  return href(route.store, route.page, route.id, query);
}

export function useRoute(): Route {
  const [route, setRoute] = useState(readRoute);
  useEffect(() => {
    const read = () => setRoute(readRoute());
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, []);
  return route;
}

const OWN = new Set(["tab", "turn", "layer", "token", "of", "step_of", "raw"]);

/** The part of the query that is the rollouts page's filter, which a rollout's page carries along. */
export function filterOf(query: URLSearchParams): URLSearchParams {
  const kept = new URLSearchParams();
  for (const [name, value] of query) if (!OWN.has(name)) kept.append(name, value);
  return kept;
}
