// A bundle: answers of the server in script files, and the filter of the rollouts page computed here. `view/bundle.py` writes it.
import type { Counted, Facets, PageOfRows, Row } from "./types";

/** A row of the table with what else the filter reads. */
interface Known extends Row {
  split: string | null;
  engine: string | null;
  policy_id: string | null;
  gaps: string[];
  tools: string[];
  verdicts: { scorer: string; passed: boolean | null }[];
  datasets: string[];
}
interface Index {
  /** By the server's path below /api/. */
  answers: Record<string, unknown>;
  /** Path → file in `data/` that holds its answer. */
  files: Record<string, string>;
  /** In the order `interesting`. */
  table: Known[];
  curves: Record<string, Record<string, unknown>>;
  labels: Record<string, string[]>;
}
type Loading = Index & { add?: (answers: Record<string, unknown>) => void };

/** The bundle that the page was opened from; undefined with a server. */
export const bundle = (globalThis as { rollhouseBundle?: Loading }).rollhouseBundle;
if (bundle) bundle.add = (answers) => void Object.assign(bundle.answers, answers);

export class NotInBundle extends Error {}

const loading = new Map<string, Promise<void>>();

/** The answer of a path, as the server gives it. Throws NotInBundle. */
export async function fromBundle(path: string): Promise<unknown> {
  const { store, what, id, query, key } = parsed(path);
  if (what === "stamp") return { stamp: "bundle" };
  if (what === "rollouts") return page(await filtered(query), query);
  if (what === "facets") return facets(query);
  if (what === "near") return near(sorted(await filtered(query), query.get("sort") ?? "interesting").map((row) => row.rollout_id), id);
  if (what === "curves") return curves(query);
  if (what === "dataset") for (const name of ["limit", "reason"]) if (query.has(name)) throw new NotInBundle(name);
  return answer(key, store);
}

function parsed(path: string) {
  const [place = "", text = ""] = path.split(/\?(.*)/s, 2);
  const [store = "", what = "", ...rest] = place.split("/").map(decodeURIComponent);
  const query = new URLSearchParams(text);
  for (const [name, value] of [...query]) if (value === "" || (name === "offset" && value === "0")) query.delete(name, value);
  const id = rest.join("/");
  const search = [...query].map(([name, value]) => `${name}=${value}`).join("&");
  return { store, what, id, query, key: [store, what, id].filter(Boolean).join("/") + (search ? `?${search}` : "") };
}

async function answer(key: string, store: string): Promise<unknown> {
  const known = bundle!.answers;
  const whole = key === "stores" || !store ? "stores" : key;
  if (!(whole in known)) {
    const file = bundle!.files[whole];
    if (file === undefined) throw new NotInBundle(whole);
    await load(file);
  }
  return known[whole];
}

function load(file: string): Promise<void> {
  let there = loading.get(file);
  if (!there) {
    there = new Promise((done, failed) => {
      const script = Object.assign(document.createElement("script"), { src: `data/${file}.js` });
      script.onload = () => done();
      script.onerror = () => failed(new NotInBundle(file));
      document.head.append(script);
    });
    loading.set(file, there);
  }
  return there;
}

// The filter: fields as in view/filters.py.

const VALUES: Record<string, (row: Known) => unknown> = {
  run: (row) => row.run_id, step: (row) => row.step, env: (row) => row.environment, category: (row) => row.category, split: (row) => row.split, status: (row) => row.status, passed: (row) => row.passed,
  reward: (row) => row.reward, advantage: (row) => row.advantage, kept: (row) => row.kept, reason: (row) => row.reason, version: (row) => row.policy_version, staleness: (row) => row.staleness, turns: (row) => row.n_turns,
  calls: (row) => row.n_tool_calls, errors: (row) => row.n_tool_errors, tokens: (row) => row.n_tokens, seconds: (row) => row.duration_s, engine: (row) => row.engine, policy: (row) => row.policy_id, error: (row) => row.error_type,
  attempt: (row) => row.attempt, started: (row) => row.started_at, group: (row) => row.group_id, task: (row) => row.task_id,
}; // prettier-ignore
const RANGES = new Set(["step", "reward", "advantage", "version", "staleness", "turns", "calls", "errors", "tokens", "seconds", "attempt", "started"]);
const LISTS: Record<string, (row: Known, value: string, words: Record<string, string>) => boolean> = {
  gap: (row, value) => row.gaps.includes(value),
  tool: (row, value) => row.tools.includes(value),
  label: (row, value) => (bundle!.labels[row.rollout_id] ?? []).includes(value),
  dataset: (row, value) => row.datasets.some((one) => one === value || one.startsWith(`${value}@`)),
  scorer: judged,
  q: (row, value, words) => (words[row.rollout_id] ?? "").includes(value.toLowerCase()),
};

async function filtered(query: URLSearchParams, without = ""): Promise<Known[]> {
  if (query.get("where")) throw new NotInBundle("where");
  const words = query.get("q") ? ((await answer("store/words", "store")) as Record<string, string>) : {};
  const names = [...new Set(query.keys())].filter((name) => name !== without && (name in VALUES || name in LISTS));
  return bundle!.table.filter((row) => names.every((name) => fits(row, name, query.getAll(name), words)));
}

function fits(row: Known, name: string, values: string[], words: Record<string, string>): boolean {
  if (name === "dataset") return values.some((value) => LISTS.dataset(row, value, words));
  if (name in LISTS) return values.every((value) => LISTS[name](row, value, words));
  const own = VALUES[name](row);
  return values.some((value) => (value === "~" ? own === null || own === undefined : RANGES.has(name) ? inRange(name, own, value) : String(own) === value));
}

function inRange(name: string, own: unknown, value: string): boolean {
  if (own === null || own === undefined) return false;
  const size = (text: string) => (name === "started" ? Date.parse(text) : Number(text));
  const at = size(String(own));
  if (!value.includes("..")) return at === size(value);
  const [low, high] = value.split("..");
  return (!low || at >= size(low)) && (!high || at <= size(high));
}

function judged(row: Known, value: string): boolean {
  const [, scorer, verdict = ""] = /^(.*?)(?::(passed|failed|flipped))?$/s.exec(value)!;
  return row.verdicts.some((one) => (one.scorer === scorer || one.scorer.startsWith(`${scorer}@`)) && (!verdict || (verdict === "flipped" ? one.passed !== null && row.passed !== null && one.passed !== row.passed : one.passed === (verdict === "passed"))));
}

function sorted(rows: Known[], sort: string): Known[] {
  const name = sort.replace(/^-/, "");
  if (!(name in VALUES)) return rows;
  const way = sort.startsWith("-") ? -1 : 1;
  const compared = (a: Known, b: Known) => {
    const [x, y] = [VALUES[name](a), VALUES[name](b)] as (string | number | null)[];
    if (x === null || y === null) return x === y ? 0 : x === null ? 1 : -1;
    return x === y ? 0 : (x < y ? -1 : 1) * way;
  };
  return [...rows].sort((a, b) => compared(a, b) || (a.rollout_id < b.rollout_id ? -1 : 1));
}

function page(rows: Known[], query: URLSearchParams): PageOfRows {
  const [offset, limit] = [Number(query.get("offset") ?? 0), Number(query.get("limit") ?? 100)];
  return { rows: sorted(rows, query.get("sort") ?? "interesting").slice(offset, offset + limit), total: rows.length, shown: rows.length, sql: "-- A bundle has no SQL." };
}

function near(ids: string[], id: string) {
  const at = ids.indexOf(id);
  if (at < 0) return { previous: null, next: ids[0] ?? null, position: null, total: ids.length };
  return { previous: ids[at - 1] ?? null, next: ids[at + 1] ?? null, position: at, total: ids.length };
}

const COUNTED = ["run", "env", "status", "passed", "error", "engine", "version", "category", "kept", "reason"];
const BINNED = ["step", "reward", "turns", "calls", "errors", "tokens"];
const BINS = 10;

async function facets(query: URLSearchParams): Promise<Facets> {
  const choices: Record<string, Counted[]> = {};
  for (const name of COUNTED) choices[name] = counted((await filtered(query, name)).map((row) => [VALUES[name](row)]));
  const rows = await filtered(query);
  const ranges: Facets["ranges"] = {};
  for (const name of BINNED) {
    const values = rows.map((row) => VALUES[name](row)).filter((value): value is number => typeof value === "number");
    if (!values.length) continue;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const bins = new Array<number>(BINS).fill(0);
    for (const value of values) bins[Math.min(BINS - 1, Math.floor(((value - low) / (high - low || 1)) * BINS))]++;
    ranges[name] = { low, high, bins };
  }
  const all = bundle!.table;
  return { choices, ranges, scorers: counted(all.map((row) => row.verdicts.map((one) => one.scorer))), datasets: counted(all.map((row) => row.datasets)), labels: counted(all.map((row) => bundle!.labels[row.rollout_id] ?? [])) };
}

/** How often each value occurs, commonest first, at most 30. */
function counted(lists: unknown[][]): Counted[] {
  const found = new Map<string | null, number>();
  for (const value of lists.flat()) {
    const key = value === null || value === undefined ? null : String(value);
    found.set(key, (found.get(key) ?? 0) + 1);
  }
  return [...found].map(([value, n]) => ({ value, n })).sort((a, b) => b.n - a.n || String(a.value).localeCompare(String(b.value))).slice(0, 30);
}

function curves(query: URLSearchParams) {
  const found: Record<string, Record<string, unknown>> = {};
  for (const run of query.getAll("run")) found[run] = Object.fromEntries(query.getAll("name").flatMap((name) => (bundle!.curves[run]?.[name] ? [[name, bundle!.curves[run][name]]] : [])));
  return found;
}
