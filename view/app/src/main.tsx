// The frame around every page: where one is, where one can go, and whether the store is still written to.
import { options, render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useData, useStamp } from "./api";
import { bundle } from "./bundle";
import { Help, listen, useKeys } from "./keys";
import { Compare } from "./pages/compare";
import { Dataset, Datasets } from "./pages/datasets";
import { Diff } from "./pages/diff";
import { Group } from "./pages/group";
import { Rollout } from "./pages/rollout";
import { Rollouts } from "./pages/rollouts";
import { Run } from "./pages/run";
import { Runs } from "./pages/runs";
import { Sql } from "./pages/sql";
import { visible } from "./format";
import { go, href, type Route, useRoute } from "./route";
import { Empty, Failure, Spinner } from "./ui";

export interface PageProps {
  route: Route;
  stamp: string;
  /** Whether labels can be written. */
  labels: boolean;
}

const PAGES: Record<string, { title: string; show: (props: PageProps) => preact.JSX.Element }> = {
  runs: { title: "Runs", show: Runs },
  run: { title: "Run", show: Run },
  rollouts: { title: "Rollouts", show: Rollouts },
  rollout: { title: "Rollout", show: Rollout },
  group: { title: "Group", show: Group },
  diff: { title: "Difference", show: Diff },
  compare: { title: "Compare", show: Compare },
  datasets: { title: "Datasets", show: Datasets },
  dataset: { title: "Dataset", show: Dataset },
  sql: { title: "SQL", show: Sql },
};
const MENU = ["runs", "rollouts", "datasets", ...(bundle ? [] : ["sql"])];

interface Stores {
  stores: { name: string; uri: string; at: string | null; labels: boolean }[];
}

function App() {
  const route = useRoute();
  const [helps, setHelps] = useState(false);
  const [theme, setTheme] = useState(() => localStorage.getItem("theme") ?? "");
  const { data, error } = useData<Stores>("stores");
  const { stamp, online } = useStamp(data ? route.store : "");
  const known = data?.stores.find((store) => store.name === route.store);
  useEffect(listen, []);
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    localStorage.setItem("theme", theme);
  }, [theme]);
  useEffect(() => {
    if (data && !route.page) go(href(route.store || (data.stores[0]?.name ?? ""), "runs"), true);
  }, [data, route.page]);
  const page = PAGES[route.page];
  useEffect(() => {
    document.title = [route.id, page?.title, route.store, "rollhouse"].filter(Boolean).join(" · ");
  }, [route.id, page, route.store]);
  useKeys([{ key: "?", does: "Show this help", run: () => setHelps(true) }]);
  const next = theme === "dark" ? "light" : theme === "light" ? "" : "dark";
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => (event.preventDefault(), document.getElementById("content")?.focus())}>
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" aria-label="rollhouse" href={href(route.store, "runs")}>
          <svg viewBox="0 0 32 32" aria-hidden="true">
            <rect width="32" height="32" rx="8" />
            <path d="M7 22l5-7 4 4 9-11" />
          </svg>
          <span>rollhouse</span>
        </a>
        {data && data.stores.length > 1 ? (
          <select aria-label="Store" value={route.store} onChange={(event) => go(href(event.currentTarget.value, "runs"))}>
            {data.stores.map((store) => (
              <option key={store.name}>{store.name}</option>
            ))}
          </select>
        ) : (
          <span class="store" title={known?.uri}>
            {known?.name}
            {known?.at && ` at ${known.at}`}
          </span>
        )}
        <nav aria-label="Pages">
          {MENU.map((name) => (
            <a key={name} href={href(route.store, name)} aria-current={route.page === name || route.page === name.slice(0, -1) || (name === "runs" && route.page === "compare") || (name === "rollouts" && (route.page === "diff" || route.page === "group")) ? "page" : undefined}>
              {PAGES[name].title}
            </a>
          ))}
        </nav>
        {!bundle && (
          <span class={`live ${online ? "" : "off"}`} title={online ? "The page follows the store." : "The viewer's server does not respond."}>
            <i aria-hidden="true" />
            <span>{online ? "live" : "offline"}</span>
          </span>
        )}
        <button class="quiet icon" aria-label={`Colours: ${theme || "as the system"}; change to ${next || "as the system"}`} onClick={() => setTheme(next)}>
          {theme === "dark" ? "☾" : theme === "light" ? "☀" : "◐"}
        </button>
        <button class="quiet icon" aria-label="Keys" onClick={() => setHelps(true)}>
          ?
        </button>
      </header>
      <main id="content" tabIndex={-1} class={`page-${route.page}`}>
        {error && <Failure error={error} />}
        {!data && !error && <Spinner />}
        {data && route.page && !known && <Empty title={`There is no store “${route.store}” here.`}>This viewer shows {data.stores.map((store) => store.name).join(", ")}.</Empty>}
        {data && known && route.page && !page && <Empty title="There is no such page.">The menu above leads on.</Empty>}
        {known && page && <page.show key={`${route.store}/${route.page}`} route={route} stamp={stamp} labels={known.labels} />}
      </main>
      {helps && <Help onClose={() => setHelps(false)} />}
    </>
  );
}

// Every text on the page passes here: control characters and direction marks are shown, wherever they come from.
const made = options.vnode;
const shown = (child: unknown): unknown => (typeof child === "string" ? visible(child) : Array.isArray(child) ? child.map(shown) : child);
options.vnode = (vnode) => {
  if (typeof vnode.type === "string") {
    const props = vnode.props as Record<string, unknown>;
    for (const name of ["children", "title", "aria-label"]) if (props[name] !== undefined) props[name] = shown(props[name]);
  }
  made?.(vnode);
};
render(<App />, document.getElementById("app")!);
