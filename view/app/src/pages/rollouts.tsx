// All of history in one table, filtered and sorted by the server.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { api, get, useData } from "../api";
import { ago, compact, number, short, signed, time } from "../format";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { go, href, type Route, withQuery } from "../route";
import type { Facets, PageOfRows, Row } from "../types";
import { Copy, Empty, Failure, Spinner, Status, toast } from "../ui";
import { Sidebar, TITLES } from "./facets";
import { quote } from "./sql";

const HEIGHT = 36;
const PAGE = 100;
const MARKS: Record<string, [string, string]> = {
  is_flipped: ["⇄", "Two verdicts disagree"], has_errors: ["!", "Tool calls that failed"], is_unfinished: ["◌", "Did not complete"], is_mixed: ["±", "Its group has several rewards"],
}; // prettier-ignore
/** Label, name to sort by, class: `w1` shows from 700 px on, `w2` from 1100, `w3` from 1500. */
const COLUMNS: [string, string, string][] = [
  ["Rollout", "", "id"], ["Run", "run", "run w1"], ["Step", "step", "n step"], ["Category", "category", "cat w1"], ["Status", "status", "st"], ["Reward", "reward", "n rew"], ["Adv.", "advantage", "n adv w1"],
  ["Batch", "reason", "batch w2"], ["Version", "version", "n ver w2"], ["Stale", "staleness", "n stale w3"], ["Turns", "turns", "n turns"], ["Calls", "calls", "n calls w2"], ["Tokens", "tokens", "n tok w2"], ["Started", "started", "n start w3"],
]; // prettier-ignore

export function Rollouts({ route, stamp }: PageProps) {
  const filter = useMemo(() => new URLSearchParams(route.query), [route.query.toString()]);
  const sort = filter.get("sort") ?? "interesting";
  const facets = useData<Facets>(api(route.store, "facets", "", filter), stamp);
  const [text, setText] = useState(filter.get("q") ?? "");
  useEffect(() => setText(filter.get("q") ?? ""), [filter]);
  return (
    <div class="with-side">
      <Sidebar route={route} facets={facets.data} />
      <section class="main-side" aria-label="Rollouts">
        <div class="bar">
          <h1>Rollouts</h1>
          <form
            class="grow"
            onSubmit={(event) => {
              event.preventDefault();
              go(withQuery(route, { q: text || null }));
            }}
          >
            <input id="words" type="search" placeholder="Words in messages and tool calls" aria-label="Words in messages and tool calls" value={text} onInput={(event) => setText(event.currentTarget.value)} />
          </form>
          <label class="soft small">
            Order{" "}
            <select value={sort} onChange={(event) => go(withQuery(route, { sort: event.currentTarget.value }))}>
              <option value="interesting">interesting first</option>
              <option value="-started">newest first</option>
              <option value="reward">lowest reward</option>
              <option value="-reward">highest reward</option>
              <option value="advantage">lowest advantage</option>
              <option value="-advantage">highest advantage</option>
              <option value="-turns">most turns</option>
              <option value="-errors">most tool errors</option>
              <option value="-tokens">most tokens</option>
              {!["interesting", "-started", "reward", "-reward", "advantage", "-advantage", "-turns", "-errors", "-tokens"].includes(sort) && <option value={sort}>{sort.replace(/^-(.*)/, "$1, descending")}</option>}
            </select>
          </label>
        </div>
        <Active route={route} />
        <Table route={route} stamp={stamp} filter={filter} sort={sort} />
      </section>
    </div>
  );
}

/** The filter's parts as chips that go away when clicked. */
function Active({ route }: { route: Route }) {
  const parts = [...route.query].filter(([name]) => name in TITLES);
  if (!parts.length) return null;
  const without = (name: string, value: string) => withQuery(route, { [name]: route.query.getAll(name).filter((one) => one !== value) });
  return (
    <ul class="active" aria-label="Filter">
      {parts.map(([name, value]) => (
        <li key={`${name}=${value}`}>
          <a href={without(name, value)} aria-label={`Remove ${TITLES[name]} ${value}`}>
            <span class="chip-label">{TITLES[name]}</span> {value === "~" ? "none" : short(value)} <span aria-hidden="true">×</span>
          </a>
        </li>
      ))}
      <li>
        <a class="clear" href={href(route.store, "rollouts")}>clear all</a>
      </li>
    </ul>
  );
}

function Table({ route, stamp, filter, sort }: { route: Route; stamp: string; filter: URLSearchParams; sort: string }) {
  const key = filter.toString();
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [seen, setSeen] = useState(stamp);
  const [pages, setPages] = useState<Record<number, Row[]>>({});
  const [head, setHead] = useState<PageOfRows>();
  const [error, setError] = useState<Error>();
  const [at, setAt] = useState(-1);
  const wanted = useRef("");
  const height = box.current?.clientHeight ?? 800;
  const first = Math.max(0, Math.floor(top / HEIGHT) - 8);
  const last = Math.min(head?.shown ?? PAGE, Math.ceil((top + height) / HEIGHT) + 8);
  const needed = range(Math.floor(first / PAGE), Math.floor(Math.max(first, last - 1) / PAGE));

  // New rows are taken in at once at the top of the table, and on request below it: what is read does not move.
  useEffect(() => {
    if (!seen || top < HEIGHT) setSeen(stamp);
  }, [stamp, top < HEIGHT]);
  const state = `${key} ${seen}`;
  useEffect(() => {
    setError(undefined);
    setAt(-1);
    const kept = Number(history.state?.top ?? 0);
    if (box.current) box.current.scrollTop = kept;
  }, [key]);
  useEffect(() => {
    if (!seen) return;
    wanted.current = state;
    const load = async (page: number) => {
      const query = new URLSearchParams(filter);
      query.set("sort", sort);
      query.set("offset", String(page * PAGE));
      try {
        const answer = await get<PageOfRows>(api(route.store, "rollouts", "", query));
        if (wanted.current !== state) return;
        setHead(answer);
        setPages((before) => ({ ...before, [page]: answer.rows }));
      } catch (problem) {
        if (wanted.current === state) setError(problem as Error);
      }
    };
    setPages((before) => (Object.keys(before).length > 40 ? {} : before));
    for (const page of needed) void load(page);
  }, [state, needed.join()]);

  const rows = (index: number): Row | undefined => pages[Math.floor(index / PAGE)]?.[index % PAGE];
  const address = (row: Row) => href(route.store, "rollout", row.rollout_id, filter);
  const move = (by: number) => {
    const next = Math.min(Math.max(0, at + by), (head?.shown ?? 1) - 1);
    setAt(next);
    const y = next * HEIGHT;
    if (box.current && (y < box.current.scrollTop || y + 2 * HEIGHT > box.current.scrollTop + box.current.clientHeight)) box.current.scrollTop = y - box.current.clientHeight / 2;
  };
  const opens = () => at >= 0 && rows(at) && go(address(rows(at)!));
  useKeys([
    { key: "j", does: "Next rollout", run: () => move(1) },
    { key: "k", does: "Previous rollout", run: () => move(-1) },
    { key: "Enter", does: "Open the rollout", run: opens },
    { key: "m", does: "Mark the rollout", run: () => at >= 0 && rows(at) && mark(rows(at)!.rollout_id) },
    { key: "d", does: "Difference to the marked one", run: () => at >= 0 && rows(at) && diffWithMarked(route.store, rows(at)!.rollout_id) },
    { key: "g", does: "The rollout's group", run: () => at >= 0 && rows(at)?.group_id && go(href(route.store, "group", rows(at)!.group_id!)) },
    { key: "/", does: "Search words", run: () => document.getElementById("words")?.focus() },
    { key: "y", does: "Copy a link to this view", run: () => void copyLink() },
  ]);
  if (error) return <Failure error={error as never} />;
  if (!head) return <Spinner />;
  if (!head.total)
    return (
      <Empty title={key ? "No rollout fits the filter." : "This store has no rollouts yet."}>{key ? <a href={href(route.store, "rollouts")}>Show all rollouts</a> : <code>rollhouse collect --env workplace-mini --engine scripted</code>}</Empty>
    );
  return (
    <>
      <div class="bar tight soft small">
        <span role="status">
          {head.total.toLocaleString("en-GB")} rollouts{head.shown < head.total && `; the newest ${head.shown.toLocaleString("en-GB")} are ranked`}
        </span>
        {seen !== stamp && stamp && (
          <button class="pill" onClick={() => (box.current && (box.current.scrollTop = 0), setSeen(stamp))}>
            ↑ new rollouts
          </button>
        )}
        <span class="grow" />
        <span class="nowrap">
          copy as <Copy text={head.sql}>SQL</Copy>
          <Copy text={`import rollhouse\n\nstore = rollhouse.open(${JSON.stringify(route.store)})\nrows = store.sql(${JSON.stringify(head.sql)}).pl()`}>Python</Copy>
          <Copy text={`rollhouse sql ${quote(head.sql)}`}>command</Copy>
        </span>
      </div>
      <div
        class="grid card"
        role="table"
        aria-label="Rollouts"
        aria-rowcount={head.shown + 1}
        tabIndex={0}
        ref={box}
        onScroll={(event) => {
          setTop(event.currentTarget.scrollTop);
          history.replaceState({ ...history.state, top: event.currentTarget.scrollTop }, "");
        }}
      >
        <div class="grid-head" role="rowgroup">
          <div class="grid-row" role="row" aria-rowindex={1}>
            {COLUMNS.map(([label, name, kinds]) => (
              <span key={label} role="columnheader" class={kinds} aria-sort={name && sort.replace("-", "") === name ? (sort.startsWith("-") ? "descending" : "ascending") : undefined}>
                {name ? <a href={withQuery(route, { sort: sort === `-${name}` ? name : `-${name}` })}>{label}{sort === name ? " ↑" : sort === `-${name}` ? " ↓" : ""}</a> : label}
              </span>
            ))}
          </div>
        </div>
        <div class="grid-body" role="rowgroup" style={{ height: `${head.shown * HEIGHT}px` }}>
          {range(first, last - 1).map((index) => {
            const row = rows(index);
            return (
              <div key={index} role="row" aria-rowindex={index + 2} aria-current={index === at ? "true" : undefined} class={`grid-row ${index === at ? "chosen" : ""}`} style={{ transform: `translateY(${index * HEIGHT}px)` }} onClick={(event) => row && !(event.target as HTMLElement).closest("a") && go(address(row))}>
                {row ? <Cells row={row} link={address(row)} /> : <span role="cell" class="id soft">…</span>}
              </div>
            );
          })}
        </div>
      </div>
    </>
  );
}

function Cells({ row, link }: { row: Row; link: string }) {
  return (
    <>
      <span role="cell" class="id">
        <a class="mono" href={link}>{short(row.rollout_id)}</a>
        <span class="marks">
          {row.marks.map((one) => (
            <abbr key={one} class={one} title={MARKS[one][1]}>{MARKS[one][0]}</abbr>
          ))}
        </span>
      </span>
      <span role="cell" class="run w1 cut" title={row.run_id}>{row.run_id}</span>
      <span role="cell" class="n step">{row.step ?? "–"}</span>
      <span role="cell" class="cat w1 cut" title={`${row.environment ?? ""} ${row.category ?? ""}`}>{row.category ?? row.environment ?? "–"}</span>
      <span role="cell" class="st"><Status value={row.status} /></span>
      <span role="cell" class="n rew"><Reward value={row.reward} passed={row.passed} /></span>
      <span role="cell" class={`n adv w1 ${row.advantage ? (row.advantage > 0 ? "good" : "bad") : "soft"}`}>{signed(row.advantage)}</span>
      <span role="cell" class="batch w2 cut" title={row.reason ?? ""}>{row.kept === null ? <span class="soft">–</span> : row.kept ? "kept" : <span class="warn">{row.reason ?? "dropped"}</span>}</span>
      <span role="cell" class="n ver w2">{row.policy_version ?? "–"}</span>
      <span role="cell" class="n stale w3">{row.staleness ?? "–"}</span>
      <span role="cell" class="n turns">{row.n_turns ?? "–"}</span>
      <span role="cell" class="n calls w2">{row.n_tool_calls ?? "–"}{row.n_tool_errors ? <span class="bad" title="calls answered by an error"> !{row.n_tool_errors}</span> : null}</span>
      <span role="cell" class="n tok w2">{compact(row.n_tokens)}</span>
      <span role="cell" class="n start w3" title={time(row.started_at)}>{ago(row.started_at)}</span>
    </>
  );
}

export function Reward({ value, passed }: { value: number | null; passed: boolean | null }) {
  if (value === null) return <span class="soft">–</span>;
  return (
    <span class={`reward ${passed === true ? "good" : passed === false ? "bad" : ""}`}>
      <meter min={0} max={1} value={Math.max(0, Math.min(1, value))} aria-hidden="true" />
      {number(value, 2)}
    </span>
  );
}

/** The difference of a rollout and the marked one, or a word on how to mark. */
export function diffWithMarked(store: string, rollout_id: string): void {
  const marked = sessionStorage.getItem("marked");
  if (!marked || marked === rollout_id) toast("Mark another rollout first: m");
  else go(href(store, "diff", marked, { with: rollout_id }));
}

/** Remembers a rollout to compare another one with. */
export function mark(rollout_id: string): void {
  sessionStorage.setItem("marked", rollout_id);
  toast(`Marked ${short(rollout_id)}`);
}

export async function copyLink(): Promise<void> {
  const { copy } = await import("../ui");
  await copy(location.href);
  toast("Link copied");
}

function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, at) => from + at);
}
