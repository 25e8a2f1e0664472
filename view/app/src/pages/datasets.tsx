// Every dataset version; one of them with its rows, what it leaves out and why; and two versions against each other.
import { useState } from "preact/hooks";
import { api, useData } from "../api";
import { ago, number, short, time } from "../format";
import { Json } from "../json";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { go, href, type Route, withQuery } from "../route";
import { Chip, Empty, Failure, Spinner, Status } from "../ui";
import { copyLink, Reward } from "./rollouts";

interface Version {
  label: string; name: string; version: number; kind: string; n_rows: number; n_dropped: number; snapshot: string; scorer: string; run_id: string | null; created_at: string | null; trained: number;
}
interface Held {
  rollout_id: string; run_id?: string; step?: number | null; status: string | null; reward?: number | null; passed?: boolean | null;
}
interface Task {
  task_id: string; environment: string; category: string | null;
}
export interface DatasetRow {
  row: number; weight: number | null; chosen: Held | null; rejected: Held | null; task: Task | null;
}
export interface OneVersion extends Omit<Version, "trained"> {
  recipe: unknown; counts: unknown; n_flagged: number | null; versions: string[]; checkpoints: { checkpoint_id: string; run_id: string; step: number }[]; reasons: { reason: string | null; n: number }[];
  rows?: DatasetRow[]; dropped?: { id: string; reason: string | null; rollout: Held | null; task: Task | null }[]; offset: number;
}
interface Difference {
  left: string; right: string; recipe: { option: string; left: unknown; right: unknown }[]; snapshots: [string, string]; in_both: number; only_left: number; only_right: number; reordered: number; reweighted: number;
  reasons: { side: string; reason: string; n: number }[]; rows: Record<string, string>[]; n_rows: number;
}

const PAGE = 100;
const UNITS: Record<string, string> = { sft: "demonstrations", dpo: "pairs", grpo: "prompts" };

export function Datasets({ route, stamp }: PageProps) {
  const { data, error } = useData<Version[]>(api(route.store, "datasets"), stamp);
  const words = route.query.get("q") ?? "";
  const shown = (data ?? []).filter((one) => [one.label, one.kind, one.snapshot, one.scorer].join(" ").toLowerCase().includes(words.toLowerCase()));
  useKeys([{ key: "/", does: "Search the datasets", run: () => document.getElementById("words")?.focus() }]);
  return (
    <>
      <div class="bar">
        <h1>Datasets</h1>
        <input id="words" type="search" placeholder="Name, kind, snapshot…" aria-label="Search the datasets" value={words} onInput={(event) => go(withQuery(route, { q: event.currentTarget.value || null }), true)} />
      </div>
      {error && <Failure error={error} />}
      {!data && !error && <Spinner />}
      {data && !shown.length && <Empty title={data.length ? "No dataset fits the filter." : "This store has no datasets yet."}>{data.length ? "Clear the search." : <code>rollhouse dataset build sft demos</code>}</Empty>}
      {shown.length > 0 && (
        <div class="scroll card" tabIndex={0} role="region" aria-label="Datasets">
          <table class="runs">
            <thead><tr><th>Dataset</th><th class="n">Rows</th><th class="n">Left out</th><th>Snapshot</th><th>Scorer</th><th class="n">Checkpoints</th><th class="n">Built</th></tr></thead>
            <tbody>
              {shown.map((one) => (
                <tr key={one.label}>
                  <td><a class="strong" href={href(route.store, "dataset", one.label)}>{one.label}</a><span class="kind">{one.kind}</span></td>
                  <td class="n">{number(one.n_rows)}</td>
                  <td class="n">{one.n_dropped ? <a href={href(route.store, "dataset", one.label, { list: "dropped" })} aria-label={`${one.n_dropped} left out of ${one.label}`}>{number(one.n_dropped)}</a> : 0}</td>
                  <td>{one.snapshot}</td>
                  <td>{one.scorer}</td>
                  <td class="n">{one.trained || "–"}</td>
                  <td class="n" title={time(one.created_at)}>{ago(one.created_at)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}

export function Dataset({ route, stamp }: PageProps) {
  const list = route.query.get("list") ?? "rows";
  const other = route.query.get("with") ?? "";
  const query = Object.fromEntries(["list", "reason", "offset"].map((name) => [name, route.query.get(name) ?? ""]).filter(([, value]) => value));
  const loaded = useData<OneVersion>(api(route.store, "dataset", route.id, query), stamp);
  const data = loaded.data?.label === route.id ? loaded.data : undefined;
  const [at, setAt] = useState(-1);
  const total = !data ? 0 : list === "dropped" ? (data.reasons.find((one) => one.reason === route.query.get("reason"))?.n ?? data.n_dropped) : data.n_rows;
  const offset = Number(route.query.get("offset") ?? 0);
  const turn = (by: number) => offset + by * PAGE >= 0 && offset + by * PAGE < total && (setAt(-1), go(withQuery(route, { offset: String(offset + by * PAGE) })));
  const targets = !data ? [] : list === "dropped" ? (data.dropped ?? []).map((one) => target(route, one.rollout, one.task)) : (data.rows ?? []).map((one) => rowTarget(route, data, one));
  const place = data?.versions.indexOf(data.label) ?? -1;
  const before = place > 0 ? data!.versions[place - 1] : null;
  useKeys([
    { key: "j", does: "Next row", run: () => setAt(Math.min(targets.length - 1, at + 1)) },
    { key: "k", does: "Previous row", run: () => setAt(Math.max(0, at - 1)) },
    { key: "Enter", does: "Open the row's rollout, pair or task", run: () => targets[at] && go(targets[at]!) },
    { key: "L", does: "Next page of rows", run: () => turn(1) },
    { key: "H", does: "Previous page of rows", run: () => turn(-1) },
    { key: "d", does: "Difference to the version before", run: () => before && go(withQuery(route, { with: other ? null : before })) },
    { key: "y", does: "Copy a link to this view", run: () => void copyLink() },
  ]);
  if (loaded.error && !data) return <Failure error={loaded.error} />;
  if (!data) return <Spinner />;
  return (
    <div class="dataset">
      <div class="bar">
        <h1>{data.label}</h1>
        <span class="kind">{data.kind}</span>
        <span class="grow" />
        {data.versions.length > 1 && (
          <label class="soft small">
            Compare with{" "}
            <select value={other} onChange={(event) => go(withQuery(route, { with: event.currentTarget.value || null }))}>
              <option value="">no version</option>
              {data.versions.filter((one) => one !== data.label).map((one) => <option key={one}>{one}</option>)}
            </select>
          </label>
        )}
      </div>
      <div class="chips">
        <Chip label={UNITS[data.kind] ?? "rows"}>{number(data.n_rows)}</Chip>
        <Chip label="left out" tone={data.n_dropped ? "warn-chip" : ""}>{number(data.n_dropped)}</Chip>
        {data.n_flagged !== null && <Chip label="also in an evaluation set" tone={data.n_flagged ? "warn-chip" : ""}>{number(data.n_flagged)}</Chip>}
        <Chip label="snapshot">{data.snapshot}</Chip>
        <Chip label="scorer">{data.scorer}</Chip>
        {data.run_id && <Chip label="built by"><a href={href(route.store, "run", data.run_id)}>{data.run_id}</a></Chip>}
        <Chip label="built">{time(data.created_at)}</Chip>
      </div>
      {other && <Against route={route} label={data.label} other={other} stamp={stamp} />}
      <div class="halves">
        <section class="card pad" aria-label="Left out">
          <h2>Left out, by reason</h2>
          {!data.reasons.length && <p class="soft">Nothing was left out.</p>}
          {data.reasons.length > 0 && (
            <table>
              <thead><tr><th>Reason</th><th class="n">Inputs</th></tr></thead>
              <tbody>{data.reasons.map((one) => <tr key={one.reason}><td>{one.reason ?? "no reason noted"}</td><td class="n"><a href={withQuery(route, { list: "dropped", reason: one.reason ?? null, offset: null })}>{number(one.n)}</a></td></tr>)}</tbody>
            </table>
          )}
        </section>
        <section class="card pad" aria-label="Recipe">
          <h2>Recipe</h2>
          {data.recipe && Object.keys(data.recipe).length ? <div class="tall" tabIndex={0} role="region" aria-label="Options of the recipe"><Json value={data.recipe} open={1} /></div> : <p class="soft">All options are the defaults.</p>}
        </section>
        <section class="card pad" aria-label="Checkpoints">
          <h2>Checkpoints trained on it</h2>
          {!data.checkpoints.length && <p class="soft">None in this store.</p>}
          <ul class="plainlist">{data.checkpoints.map((one) => <li key={one.checkpoint_id}><code>{one.checkpoint_id}</code> of <a href={href(route.store, "run", one.run_id)}>{one.run_id}</a></li>)}</ul>
        </section>
      </div>
      <div class="bar rows-bar">
        <div class="segments" role="group" aria-label="Listed">
          <a href={withQuery(route, { list: null, reason: null, offset: null })} aria-current={list === "rows" ? "true" : undefined}>rows</a>
          <a href={withQuery(route, { list: "dropped", reason: null, offset: null })} aria-current={list === "dropped" ? "true" : undefined}>left out</a>
        </div>
        {route.query.get("reason") && <span class="pill-text">{route.query.get("reason")} <a aria-label="All reasons" href={withQuery(route, { reason: null, offset: null })}>×</a></span>}
        {data.kind !== "grpo" && list === "rows" && <a class="small" href={href(route.store, "rollouts", "", { dataset: data.label })}>as a table of rollouts</a>}
        <span class="grow" />
        <span class="soft small" role="status">{total ? `${(offset + 1).toLocaleString("en-GB")} to ${Math.min(total, offset + PAGE).toLocaleString("en-GB")} of ${total.toLocaleString("en-GB")}` : "nothing to list"}</span>
        <button disabled={offset === 0} onClick={() => turn(-1)}>‹ before</button>
        <button disabled={offset + PAGE >= total} onClick={() => turn(1)}>after ›</button>
      </div>
      {list === "dropped" ? <Dropped route={route} data={data} at={at} /> : <Rows route={route} data={data} at={at} />}
    </div>
  );
}

function target(route: Route, rollout: Held | null, task: Task | null): string | null {
  return rollout?.status ? href(route.store, "rollout", rollout.rollout_id) : task ? href(route.store, "rollouts", "", { task: task.task_id }) : null;
}

function rowTarget(route: Route, data: OneVersion, row: DatasetRow): string | null {
  return row.chosen && row.rejected ? href(route.store, "diff", row.chosen.rollout_id, { with: row.rejected.rollout_id, pair: data.label, row: String(row.row) }) : target(route, row.chosen, row.task);
}

function Rows({ route, data, at }: { route: Route; data: OneVersion; at: number }) {
  const rows = data.rows ?? [];
  if (!rows.length) return <Empty title="No rows here." />;
  const pairs = data.kind === "dpo";
  return (
    <div class="scroll card" tabIndex={0} role="region" aria-label="Rows">
      <table>
        <thead><tr><th class="n">Row</th>{data.kind !== "grpo" && <th>{pairs ? "Chosen" : "Rollout"}</th>}{pairs && <th>Rejected</th>}<th>Task</th><th class="n">Weight</th>{pairs && <th><span class="hidden">Difference</span></th>}</tr></thead>
        <tbody>
          {rows.map((row, index) => (
            <tr key={row.row} class={index === at ? "chosen" : ""} aria-current={index === at ? "true" : undefined}>
              <td class="n">{row.row}</td>
              {data.kind !== "grpo" && <td><Kept route={route} rollout={row.chosen} /></td>}
              {pairs && <td><Kept route={route} rollout={row.rejected} /></td>}
              <td><OfTask route={route} task={row.task} /></td>
              <td class="n">{number(row.weight)}</td>
              {pairs && <td><a href={rowTarget(route, data, row) ?? undefined} aria-label={`Difference of pair ${row.row}`}>difference</a></td>}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Dropped({ route, data, at }: { route: Route; data: OneVersion; at: number }) {
  const rows = data.dropped ?? [];
  if (!rows.length) return <Empty title="Nothing was left out." />;
  return (
    <div class="scroll card" tabIndex={0} role="region" aria-label="Left out">
      <table>
        <thead><tr><th>Input</th><th>Task</th><th>Reason</th></tr></thead>
        <tbody>
          {rows.map((one, index) => (
            <tr key={index} class={index === at ? "chosen" : ""} aria-current={index === at ? "true" : undefined}>
              <td>{one.rollout ? <Kept route={route} rollout={one.rollout} /> : <span class="mono" title={one.id}>{short(one.id)}</span>}</td>
              <td><OfTask route={route} task={one.task} /></td>
              <td class="warn">{one.reason ?? "no reason noted"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Kept({ route, rollout }: { route: Route; rollout: Held | null }) {
  if (!rollout) return <span class="soft">–</span>;
  if (!rollout.status) return <span class="mono bad" title="The store does not hold it.">{short(rollout.rollout_id)} missing</span>;
  return (
    <span class="held">
      <a class="mono" href={href(route.store, "rollout", rollout.rollout_id)}>{short(rollout.rollout_id)}</a>
      <Reward value={rollout.reward ?? null} passed={rollout.passed ?? null} />
      {rollout.status !== "completed" && <Status value={rollout.status} />}
      <span class="soft small">{rollout.run_id}{rollout.step !== null && rollout.step !== undefined && `, step ${rollout.step}`}</span>
    </span>
  );
}

function OfTask({ route, task }: { route: Route; task: Task | null }) {
  if (!task) return <span class="soft">–</span>;
  return <a href={href(route.store, "rollouts", "", { task: task.task_id })} title={task.task_id}>{task.category ?? task.environment} <span class="mono soft">{short(task.task_id)}</span></a>;
}

function Against({ route, label, other, stamp }: { route: Route; label: string; other: string; stamp: string }) {
  const { data, error } = useData<Difference>(api(route.store, "dataset-diff", other, { with: label }), stamp);
  if (error) return <Failure error={error} />;
  if (!data) return <Spinner />;
  const side = (name: string) => (name === "only_left" ? data.left : data.right);
  return (
    <section class="card pad against" aria-label="Difference of two versions">
      <h2>{data.left} and {data.right}</h2>
      <div class="chips">
        <Chip label="in both">{number(data.in_both)}</Chip>
        <Chip label={`only in ${data.left}`} tone={data.only_left ? "bad-chip" : ""}>{number(data.only_left)}</Chip>
        <Chip label={`only in ${data.right}`} tone={data.only_right ? "good-chip" : ""}>{number(data.only_right)}</Chip>
        <Chip label="reordered">{number(data.reordered)}</Chip>
        <Chip label="reweighted">{number(data.reweighted)}</Chip>
        {data.snapshots[0] !== data.snapshots[1] && <Chip label="snapshots">{data.snapshots.join(" and ")}</Chip>}
      </div>
      <div class="halves">
        <div>
          <h2>Options that differ</h2>
          {!data.recipe.length && <p class="soft">None.</p>}
          {data.recipe.length > 0 && <table><thead><tr><th>Option</th><th>{data.left}</th><th>{data.right}</th></tr></thead><tbody>{data.recipe.map((one) => <tr key={one.option}><td>{one.option}</td><td><code>{JSON.stringify(one.left)}</code></td><td><code>{JSON.stringify(one.right)}</code></td></tr>)}</tbody></table>}
        </div>
        <div>
          <h2>Why the other lacks them</h2>
          {!data.reasons.length && <p class="soft">Both have the same rows.</p>}
          {data.reasons.length > 0 && <table><thead><tr><th>Only in</th><th>The other's reason</th><th class="n">Inputs</th></tr></thead><tbody>{data.reasons.map((one, at) => <tr key={at}><td>{side(one.side)}</td><td>{one.reason}</td><td class="n">{number(one.n)}</td></tr>)}</tbody></table>}
        </div>
      </div>
      {data.rows.length > 0 && (
        <details>
          <summary><b>{number(data.n_rows)} rows are in one version only</b>{data.rows.length < data.n_rows && `; the first ${data.rows.length}`}</summary>
          <div class="scroll tall" tabIndex={0} role="region" aria-label="Rows in one version only">
            <table>
              <tbody>
                {data.rows.map((one, at) => (
                  <tr key={at}>
                    <td>{one.only_in}</td>
                    <td>
                      {one.chosen_id ? <a href={href(route.store, "diff", one.chosen_id, { with: one.rejected_id })}><span class="mono">{short(one.chosen_id)}</span> over <span class="mono">{short(one.rejected_id)}</span></a>
                        : one.rollout_id ? <a class="mono" href={href(route.store, "rollout", one.rollout_id)}>{short(one.rollout_id)}</a>
                        : <a class="mono" href={href(route.store, "rollouts", "", { task: one.task_id })}>{short(one.task_id)}</a>}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </details>
      )}
    </section>
  );
}
