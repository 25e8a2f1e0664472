// One rollout: what it said and did, token by token, how it was judged and where it went.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { api, useData } from "../api";
import { number, seconds, short, signed, time, visible } from "../format";
import { Json } from "../json";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { filterOf, go, href, withQuery } from "../route";
import type { Details, Label, Went } from "../types";
import { Chip, Copy, Empty, Failure, Spinner, Status, Verdict } from "../ui";
import { type Labelling, Labels, toggleStar } from "./labels";
import { Lineage } from "./lineage";
import { Messages, turnsOf } from "./messages";
import { copyLink, diffWithMarked, mark } from "./rollouts";
import { Scores } from "./scores";
import { Tokens } from "./tokens";

interface Near {
  previous: string | null;
  next: string | null;
  position: number | null;
  total: number;
}
const TABS: [string, string][] = [["messages", "Messages"], ["tokens", "Tokens"], ["scores", "Scores"], ["lineage", "Lineage"], ["raw", "Raw"]]; // prettier-ignore

export function Rollout({ route, stamp, labels: writes }: PageProps) {
  const { data: loaded, error } = useData<Details>(api(route.store, "rollout", route.id), stamp);
  const data = loaded?.rollout.rollout_id === route.id ? loaded : undefined;
  const went = useData<Went>(api(route.store, "lineage", route.id), stamp);
  const lineage = went.data?.rollout_id === route.id ? went.data : undefined;
  const filter = useMemo(() => filterOf(route.query), [route.query.toString()]);
  const near = useData<Near>(api(route.store, "near", route.id, filter)).data;
  const tab = route.query.get("tab") ?? "messages";
  const turn = route.query.get("turn");
  const [written, setWritten] = useState<{ of: Details; labels: Label[] }>();
  const [labelled, setLabelled] = useState<number | null | undefined>(); // the place whose form is open: a message, null for the rollout, undefined for none
  const folds = useRef<HTMLDivElement>(null);
  const to = (id: string | null | undefined) => id && go(withTab(href(route.store, "rollout", id, filter), tab));
  const count = data ? turnsOf(data).length : 0;
  const goTurn = (by: number) => {
    const now = turn === null ? -1 : Number(turn);
    go(withQuery(route, { tab: null, turn: String(Math.max(0, Math.min(count - 1, now + by))) }), true);
  };
  // What was just written counts until the store is read again.
  const labelling: Labelling | undefined = data && { store: route.store, rollout: route.id, writes, labels: written?.of === data ? written.labels : data.labels, changed: (labels) => setWritten({ of: data, labels }) };
  const fold = (open: boolean) => folds.current?.querySelectorAll<HTMLDetailsElement>("details").forEach((one) => (one.open = open));
  const scrollBy = (by: number) => scrollingBox().scrollBy({ top: by * 120 });
  useKeys([
    { key: "j", does: "Scroll down", run: () => scrollBy(1) },
    { key: "k", does: "Scroll up", run: () => scrollBy(-1) },
    { key: "l", does: "Next turn", run: () => goTurn(1) },
    { key: "h", does: "Previous turn", run: () => goTurn(-1) },
    { key: "L", does: "Next rollout of the filter", run: () => to(near?.next) },
    { key: "H", does: "Previous rollout of the filter", run: () => to(near?.previous) },
    { key: "t", does: "Tokens, and back to the messages", run: () => go(withQuery(route, { tab: tab === "tokens" ? null : "tokens" })) },
    { key: "g", does: "The rollouts of its group", run: () => data?.rollout.group_id && go(href(route.store, "group", data.rollout.group_id)) },
    { key: "m", does: "Mark it", run: () => mark(route.id) },
    { key: "d", does: "Difference to the marked one", run: () => diffWithMarked(route.store, route.id) },
    ...(writes && labelling ? [{ key: "s", does: "Star it, or take the star away", run: () => void toggleStar(labelling, null) }, { key: "n", does: "Add a label or a note", run: () => setLabelled(null) }] : []),
    { key: "e", does: "Fold everything", run: () => fold(false) },
    { key: "E", does: "Unfold everything", run: () => fold(true) },
    { key: "y", does: "Copy a link to this view", run: () => void copyLink() },
    { key: "/", does: "Search all rollouts", run: () => go(href(route.store, "rollouts", "", filter)) },
  ]);
  useEffect(() => {
    if (turn !== null && tab === "messages" && data) document.getElementById(`turn-${turn}`)?.scrollIntoView({ block: "start" });
  }, [turn, tab, data !== undefined]);
  if (error && !data) return <Failure error={error} />;
  if (!data) return <Spinner />;
  const { rollout, task } = data;
  const own = lineage?.samples.find((sample) => sample.run_id === rollout.run_id) ?? lineage?.samples[0];
  return (
    <div class="rollout" ref={folds}>
      <div class="sticky">
        <div class="bar">
          <h1 class="mono" title={rollout.rollout_id}>
            {short(rollout.rollout_id)}
          </h1>
          <Copy text={rollout.rollout_id} title="Copy the whole id">copy id</Copy>
          <span class="grow" />
          {near && near.total > 0 && (
            <span class="steps small">
              <a class="quiet" aria-disabled={!near.previous} aria-label="Previous rollout" href={near.previous ? withTab(href(route.store, "rollout", near.previous, filter), tab) : undefined}>‹</a>
              <a href={href(route.store, "rollouts", "", filter)}>{near.position === null ? `${near.total.toLocaleString("en-GB")} in the filter` : `${(near.position + 1).toLocaleString("en-GB")} of ${near.total.toLocaleString("en-GB")}`}</a>
              <a class="quiet" aria-disabled={!near.next} aria-label="Next rollout" href={near.next ? withTab(href(route.store, "rollout", near.next, filter), tab) : undefined}>›</a>
            </span>
          )}
        </div>
        <div class="chips">
          <Status value={rollout.status} />
          <Chip label="reward" tone={rollout.passed === null ? "" : rollout.passed ? "good-chip" : "bad-chip"}>{number(rollout.reward, 2)}</Chip>
          {own && <Chip label="advantage">{signed(own.advantage)}</Chip>}
          {own && !own.kept && <Chip label="left out" tone="warn-chip">{own.reason ?? "no reason noted"}</Chip>}
          {rollout.step !== null && <Chip label="step">{rollout.step}</Chip>}
          {rollout.policy_version !== null && <Chip label="policy">{rollout.policy_version_last !== null && rollout.policy_version_last !== rollout.policy_version ? `v${rollout.policy_version} → v${rollout.policy_version_last}` : `v${rollout.policy_version}`}</Chip>}
          {own && own.plan_version !== null && rollout.policy_version !== null && own.plan_version > rollout.policy_version && <Chip label="stale by" tone="warn-chip">{own.plan_version - rollout.policy_version}</Chip>}
          <Chip label="run">
            <a href={href(route.store, "run", rollout.run_id)}>{rollout.run_id}</a>
          </Chip>
          {task?.category && <Chip label="task">{task.category}</Chip>}
          {rollout.attempt ? <Chip label="attempt">{rollout.attempt + 1}</Chip> : null}
          <Labels of={labelling!} message={null} open={labelled === null} onOpen={(open) => setLabelled(open ? null : undefined)} />
        </div>
        <nav class="tabs" aria-label="Parts of the rollout">
          {TABS.map(([name, label]) => (
            <a key={name} href={withQuery(route, { tab: name === "messages" ? null : name })} aria-current={tab === name ? "page" : undefined}>
              {label}
              {name === "scores" && data.scores.length > 0 && <span class="soft"> {data.scores.length}</span>}
            </a>
          ))}
        </nav>
      </div>
      {rollout.error_message && (
        <div class="notice bad-notice">
          <strong>{rollout.error_type ?? "error"}</strong> <span>{visible(rollout.error_message)}</span>
        </div>
      )}
      {rollout.status === "truncated" && <div class="notice">Cut short: {rollout.stop_reason ?? "a limit"} ended the rollout before the policy did.</div>}
      {rollout.prefix_ok === false && <div class="notice">A later prompt did not begin with all tokens before it: the history was rewritten on the way.</div>}
      {tab === "messages" && <Messages route={route} data={data} labelling={labelling!} labelled={labelled} onLabel={setLabelled} />}
      {tab === "tokens" && <Tokens route={route} data={data} />}
      {tab === "scores" && <Scores route={route} data={data} />}
      {tab === "lineage" && (lineage ? <Lineage route={route} details={data} data={lineage} /> : went.error ? <Failure error={went.error} /> : <Spinner />)}
      {tab === "raw" && <Raw data={{ ...data, lineage }} />}
      {!TABS.some(([name]) => name === tab) && <Empty title="There is no such tab." />}
    </div>
  );
}

function withTab(address: string, tab: string): string {
  return tab === "messages" ? address : `${address}${address.includes("?") ? "&" : "?"}tab=${encodeURIComponent(tab)}`;
}

function scrollingBox(): Element {
  return document.querySelector(".strip-scroll") ?? document.scrollingElement!;
}

function Raw({ data }: { data: unknown }) {
  return (
    <section class="card pad" aria-label="Raw">
      <div class="bar tight">
        <h2>As JSON</h2>
        <span class="grow" />
        <Copy text={() => JSON.stringify(data, null, 2)}>copy all</Copy>
      </div>
      <Json value={data} open={2} />
    </section>
  );
}

/** What stands beside the messages: facts of the row, and where its time went. */
export function Facts({ data }: { data: Details }) {
  const { rollout, task } = data;
  const facts: [string, preact.ComponentChildren][] = [
    ["verdict", <Verdict passed={rollout.passed} />],
    ["scorer", rollout.scorer && `${rollout.scorer}@${rollout.scorer_version}`],
    ["ended", rollout.stop_reason],
    ["turns", rollout.n_turns],
    ["tool calls", rollout.n_tool_calls === null ? null : `${rollout.n_tool_calls}${rollout.n_tool_errors ? `, ${rollout.n_tool_errors} failed` : ""}${rollout.n_parse_failures ? `, ${rollout.n_parse_failures} unreadable` : ""}`],
    ["tokens", rollout.n_tokens === null ? null : `${number(rollout.n_sampled_tokens)} sampled of ${number(rollout.n_tokens)}`],
    ["prompt", rollout.n_prompt_tokens === null ? null : `${number(rollout.n_prompt_tokens)} tokens`],
    ["engine", rollout.engine],
    ["policy", short(rollout.policy_id)],
    ["environment", rollout.environment],
    ["split", task?.split],
    ["difficulty", task?.difficulty],
    ["agent", rollout.agent === "main" ? null : rollout.agent],
    ["started", rollout.started_at && time(rollout.started_at)],
    ["gaps", rollout.gaps?.join(", ")],
  ];
  return (
    <>
      <dl class="facts">
        {facts.map(([name, value]) => value !== null && value !== undefined && value !== "" && (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <Timeline data={data} />
    </>
  );
}

function Timeline({ data }: { data: Details }) {
  const { duration_s, generate_s, tool_s, verify_s } = data.rollout;
  if (!duration_s) return null;
  const parts: [string, number][] = [["generate", generate_s ?? 0], ["tools", tool_s ?? 0], ["verify", verify_s ?? 0]];
  parts.push(["other", Math.max(0, duration_s - parts.reduce((sum, [, value]) => sum + value, 0))]);
  return (
    <figure class="timeline">
      <figcaption class="soft small">{seconds(duration_s)}</figcaption>
      <div class="stack" role="img" aria-label={parts.map(([name, value]) => `${name} ${seconds(value)}`).join(", ")}>
        {parts.map(([name, value]) => value > 0 && <i key={name} class={`p-${name}`} style={{ flexGrow: value / duration_s }} title={`${name} ${seconds(value)}`} />)}
      </div>
      <div class="legend small">
        {parts.map(([name, value]) => value / duration_s >= 0.005 && (
          <span key={name}>
            <i class={`p-${name}`} /> {name} {seconds(value)}
          </span>
        ))}
      </div>
    </figure>
  );
}

