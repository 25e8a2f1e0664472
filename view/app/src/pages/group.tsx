// The rollouts of one prompt side by side: their numbers, then what they said, each stretch that several share once.
import { useMemo, useRef, useState } from "preact/hooks";
import { api, useData } from "../api";
import { compact, number, parse, short, signed, visible } from "../format";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { filterOf, go, href, type Route, withQuery } from "../route";
import type { Group as Grouped, GroupNode, GroupRow, Message } from "../types";
import { Chip, Failure, Spinner, Status, Verdict } from "../ui";
import { copyLink, diffWithMarked, mark, Reward } from "./rollouts";

const ORDERS: [string, string][] = [["-reward", "reward"], ["-advantage", "advantage"], ["sample", "sample"]]; // prettier-ignore

function ordered(rows: GroupRow[], sort: string): GroupRow[] {
  const name = sort.replace("-", "") === "advantage" ? "advantage" : "reward";
  const size = (row: GroupRow) => row[name] ?? -Infinity;
  return sort === "sample" ? rows : [...rows].sort((a, b) => (size(a) < size(b) ? 1 : size(a) > size(b) ? -1 : 0) * (sort.startsWith("-") ? 1 : -1));
}

export function Group({ route, stamp }: PageProps) {
  const loaded = useData<Grouped>(api(route.store, "group", route.id), stamp);
  const data = loaded.data?.group_id === route.id ? loaded.data : undefined;
  const sort = route.query.get("sort") ?? "-reward";
  const rows = useMemo(() => ordered(data?.rows ?? [], sort), [data, sort]);
  const [at, setAt] = useState(-1);
  const folds = useRef<HTMLDivElement>(null);
  const chosen = rows[at];
  const filter = filterOf(route.query);
  filter.delete("sort");
  const fold = (open: boolean) => folds.current?.querySelectorAll<HTMLDetailsElement>("details").forEach((one) => (one.open = open));
  const move = (by: number) => {
    const next = Math.max(0, Math.min(rows.length - 1, at + by));
    setAt(next);
    folds.current?.querySelectorAll(`[data-rollout="${CSS.escape(rows[next]?.rollout_id ?? "")}"]`).forEach((one) => one.scrollIntoView({ block: "nearest", inline: "nearest" }));
  };
  const to = (id: string | null | undefined) => id && go(href(route.store, "group", id, route.query));
  const table = href(route.store, "rollouts", "", { group: route.id, sort: "-reward" });
  useKeys([
    { key: "j", does: "Next rollout", run: () => move(1) },
    { key: "k", does: "Previous rollout", run: () => move(-1) },
    { key: "Enter", does: "Open the rollout", run: () => chosen && go(href(route.store, "rollout", chosen.rollout_id, { group: route.id, sort: "-reward" })) },
    { key: "L", does: "Next group of the run", run: () => to(data?.near.next) },
    { key: "H", does: "Previous group of the run", run: () => to(data?.near.previous) },
    { key: "s", does: "Order by reward, advantage, sample", run: () => go(withQuery(route, { sort: ORDERS[(ORDERS.findIndex(([name]) => name === sort) + 1) % ORDERS.length][0] }), true) },
    { key: "m", does: "Mark the rollout", run: () => chosen && mark(chosen.rollout_id) },
    { key: "d", does: "Difference to the marked one", run: () => chosen && diffWithMarked(route.store, chosen.rollout_id) },
    { key: "g", does: "The group as a table of rollouts", run: () => go(table) },
    { key: "e", does: "Fold everything", run: () => fold(false) },
    { key: "E", does: "Unfold everything", run: () => fold(true) },
    { key: "y", does: "Copy a link to this view", run: () => void copyLink() },
  ]);
  if (loaded.error && !data) return <Failure error={loaded.error} />;
  if (!data) return <Spinner />;
  const { near } = data;
  return (
    <div class="group" ref={folds}>
      <div class="bar">
        <h1>Group</h1>
        <span class="mono soft cut" title={data.group_id}>{short(data.group_id)}</span>
        <span class="grow" />
        <span class="steps small">
          <a class="quiet" aria-disabled={!near.previous} aria-label="Previous group" href={near.previous ? href(route.store, "group", near.previous, route.query) : undefined}>‹</a>
          <span>{(near.position + 1).toLocaleString("en-GB")} of {near.total.toLocaleString("en-GB")}</span>
          <a class="quiet" aria-disabled={!near.next} aria-label="Next group" href={near.next ? href(route.store, "group", near.next, route.query) : undefined}>›</a>
        </span>
      </div>
      <div class="chips">
        <Chip label="run"><a href={href(route.store, "run", data.run_id)}>{data.run_id}</a></Chip>
        {data.step !== null && <Chip label="step">{data.step}</Chip>}
        {data.task?.category && <Chip label="task">{data.task.category}</Chip>}
        <Chip label="rollouts"><a href={table}>{data.n}{data.rows.length > data.n && ` of ${data.rows.length} rows`}</a></Chip>
        <Chip label="mean">{number(data.mean)}</Chip>
        <Chip label="std">{number(data.std)}</Chip>
        {data.n_judged > 0 && <Chip label="passed">{data.n_passed} of {data.n_judged}</Chip>}
        {data.zero_variance === true && <Chip label="zero variance" tone="warn-chip">no advantage</Chip>}
        {data.zero_variance === false && <Chip label="mixed" tone="good-chip">rewards differ</Chip>}
        {Object.entries(data.left_out).map(([reason, n]) => <Chip key={reason} label={`${n} left out`} tone="warn-chip">{reason}</Chip>)}
      </div>
      <Numbers route={route} rows={rows} sort={sort} chosen={chosen?.rollout_id} />
      <div class="bar tight">
        <h2>What they said</h2>
        {data.shown < data.rows.length && <span class="soft small">the first {data.shown} of {data.rows.length} rollouts</span>}
        <span class="grow" />
        {data.tree.rollouts.length > 1 && <span class="soft small">{data.tree.children.length + (data.tree.ends.length ? 1 : 0) > 1 ? `They part at message ${data.tree.first + data.tree.messages.length + data.tree.hidden + 1}.` : "All messages are the same."}</span>}
      </div>
      <div class="scroll tree" tabIndex={0} role="region" aria-label="Messages of the rollouts">
        <Node node={data.tree} rows={rows} route={route} chosen={chosen?.rollout_id} root />
      </div>
    </div>
  );
}

function Numbers({ route, rows, sort, chosen }: { route: Route; rows: GroupRow[]; sort: string; chosen?: string }) {
  const link = (row: GroupRow) => href(route.store, "rollout", row.rollout_id, { group: route.id, sort: "-reward" });
  const most = Math.max(1e-9, ...rows.map((row) => Math.abs(row.advantage ?? 0)));
  const best = rows.find((row) => row.reward !== null && row.reward === Math.max(...rows.map((one) => one.reward ?? -Infinity)));
  return (
    <div class="scroll card" tabIndex={0} role="region" aria-label="Numbers of the rollouts">
      <table>
        <thead>
          <tr>
            <th>Rollout</th>
            {ORDERS.slice(2).map(([name]) => <th key={name} class="n"><a href={withQuery(route, { sort: name })}>Sample{sort === name && " ↑"}</a></th>)}
            <th>Status</th>
            <th class="n" aria-sort={sort === "-reward" ? "descending" : undefined}><a href={withQuery(route, { sort: null })}>Reward{sort === "-reward" && " ↓"}</a></th>
            <th>Verdict</th>
            <th class="n" aria-sort={sort === "-advantage" ? "descending" : undefined}><a href={withQuery(route, { sort: "-advantage" })}>Advantage{sort === "-advantage" && " ↓"}</a></th>
            <th>Batch</th><th class="n">Turns</th><th class="n">Calls</th><th class="n">Tokens</th><th class="n">Version</th><th><span class="hidden">Difference</span></th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.rollout_id} data-rollout={row.rollout_id} class={row.rollout_id === chosen ? "chosen" : ""} aria-current={row.rollout_id === chosen ? "true" : undefined}>
              <td class="nowrap"><a class="mono" href={link(row)}>{short(row.rollout_id)}</a>{!row.final && <span class="kind">retried</span>}{row.trainable === false && <span class="kind">not trained</span>}</td>
              <td class="n nowrap">{row.sample_index ?? "–"}{row.attempt ? `, attempt ${row.attempt + 1}` : ""}{row.branch ? `, branch ${row.branch}` : ""}</td>
              <td><Status value={row.status} /></td>
              <td class="n"><Reward value={row.reward} passed={row.passed} /></td>
              <td class="nowrap"><Verdict passed={row.passed} /></td>
              <td class={`n nowrap ${row.advantage ? (row.advantage > 0 ? "good" : "bad") : "soft"}`}>
                {row.advantage !== null && <i class="lever" aria-hidden="true"><i style={{ width: `${(50 * Math.abs(row.advantage)) / most}%`, [row.advantage < 0 ? "right" : "left"]: "50%" }} /></i>}
                {signed(row.advantage)}
              </td>
              <td>{row.kept === null ? <span class="soft">in no batch</span> : !row.kept ? <span class="warn">left out: {row.reason ?? "no reason noted"}</span> : row.trained ? <span class="good">trained on</span> : "kept; the step was not taken"}</td>
              <td class="n">{row.n_turns ?? "–"}</td>
              <td class="n nowrap">{row.n_tool_calls ?? "–"}{row.n_tool_errors ? <span class="bad" title="calls answered by an error"> !{row.n_tool_errors}</span> : null}</td>
              <td class="n">{compact(row.n_tokens)}</td>
              <td class="n">{row.policy_version ?? "–"}</td>
              <td class="nowrap">{best && row !== best && <a href={href(route.store, "diff", best.rollout_id, { with: row.rollout_id })} aria-label={`Difference of ${short(row.rollout_id)} to the best`}>to the best</a>}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Node({ node, rows, route, chosen, root = false }: { node: GroupNode; rows: GroupRow[]; route: Route; chosen?: string; root?: boolean }) {
  const through = rows.filter((row) => node.rollouts.includes(row.rollout_id));
  const place = (one: GroupNode) => rows.findIndex((row) => one.rollouts.includes(row.rollout_id));
  const children = [...node.children].sort((a, b) => place(a) - place(b));
  const ends = node.ends.length && children.length ? through.filter((row) => node.ends.includes(row.rollout_id)) : [];
  const name = root && node.rollouts.length > 1 ? `${node.messages.length + node.hidden} messages at the beginning of all` : `${node.messages.length + node.hidden} ${node.messages.length + node.hidden === 1 ? "message" : "messages"}`;
  return (
    <div class={`node ${node.rollouts.includes(chosen ?? "") && !root ? "chosen" : ""}`}>
      {(!root || !children.length) && (
        <div class="node-head">
          {through.map((row) => (
            <a key={row.rollout_id} data-rollout={row.rollout_id} class={`tag ${row.passed === null ? "" : row.passed ? "good-chip" : "bad-chip"}`} href={href(route.store, "rollout", row.rollout_id, { group: route.id, sort: "-reward" })} title={`${row.rollout_id}, reward ${number(row.reward)}, advantage ${signed(row.advantage)}`}>
              #{row.sample_index ?? "–"} {number(row.reward, 2)} <span class="soft">{signed(row.advantage)}</span>
            </a>
          ))}
        </div>
      )}
      {node.messages.length > 0 && (
        <details class="message fold" open={!root || !children.length}>
          <summary><b>{name}</b></summary>
          {node.messages.map((message, at) => <Said key={at} message={message} />)}
          {node.hidden > 0 && <p class="soft small">{node.hidden} more messages; the rollout's page shows them.</p>}
        </details>
      )}
      {ends.length > 0 && <p class="soft small">{ends.map((row) => `#${row.sample_index ?? "–"}`).join(", ")} {ends.length === 1 ? "ends" : "end"} here.</p>}
      {children.length > 0 && <div class="branches">{children.map((child) => <Node key={child.rollouts[0]} node={child} rows={rows} route={route} chosen={chosen} />)}</div>}
    </div>
  );
}

function Said({ message }: { message: Message & { more: number } }) {
  return (
    <section class={`said role-${/^(user|assistant|tool)$/.test(message.role) ? message.role : "other"}`}>
      <b class="small">{message.role}</b>
      {message.reasoning && <pre class="plain soft">{message.reasoning}</pre>}
      {message.text && <pre class="plain">{message.text}</pre>}
      {message.parts && <pre class="plain">{message.parts}</pre>}
      {(message.tool_calls ?? []).map((call, at) => (
        <pre key={at} class="plain"><b>{call.name}</b>({visible(JSON.stringify(parse(call.arguments) ?? call.arguments, null, 1))})</pre>
      ))}
      {message.more > 0 && <p class="soft small">{message.more.toLocaleString("en-GB")} more characters</p>}
    </section>
  );
}
