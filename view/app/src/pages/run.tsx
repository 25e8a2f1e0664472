// One run: its numbers over steps beside its rollouts, where the time went, what it left out, its settings and checkpoints.
import { useMemo } from "preact/hooks";
import { api, useData } from "../api";
import { between, number, percent, seconds, time } from "../format";
import { Json } from "../json";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { Chart, type Curve, colour, Scatter } from "../plot";
import { go, href, type Route, withQuery } from "../route";
import type { Run as Listed } from "../types";
import { Chip, Empty, Failure, Spinner, Status } from "../ui";
import { InFlight } from "./inflight";
import { Lanes } from "./lanes";
import { copyLink } from "./rollouts";

interface One {
  run_id: string; kind: string; name: string; status: string; started_at: string; finished_at: string | null; incarnation: number; config: unknown; summary: unknown;
  metrics: string[];
  checkpoints: { checkpoint_id: string; step: number; path: string; weights_hash: string | null; dataset: string | null; created_at: string }[];
  validations: { run_id: string; step: number; status: string; pass_rate: number | null; stderr: number | null; n: number | null }[];
  dropped: { step: number; reason: string | null; n: number }[];
  rollouts: { n: number; reward: number | null; pass_rate: number | null; tokens: number | null };
} // prettier-ignore
type Curves = Record<string, Record<string, [number[], (number | null)[]]>>;
interface Cloud {
  total: number; rollout_id: string[]; step: (number | null)[]; reward: (number | null)[]; status: string[]; environment: (string | null)[]; category: (string | null)[]; staleness: (number | null)[]; place: number[];
} // prettier-ignore

const FIRST = ["train/reward", "train/loss", "val/accuracy", "train/entropy", "mismatch/kl", "len/mean"];
const BY = ["status", "category", "environment", "staleness"] as const;
// The parts that a step is made of; `time/generate` runs beside `time/wait`.
const PHASES = ["wait", "verify", "train", "sync", "store"];

export function Run({ route, stamp }: PageProps) {
  const { data, error } = useData<One>(api(route.store, "run", route.id), stamp);
  useKeys([{ key: "y", does: "Copy a link to this view", run: () => void copyLink() }]);
  if (error && !data) return <Failure error={error} />;
  if (!data || data.run_id !== route.id) return <Spinner />;
  const { rollouts } = data;
  const summary = data.summary as { error?: string; message?: string } | null;
  return (
    <div class="run">
      <div class="bar">
        <h1>{data.name}</h1>
        <span class="kind">{data.kind}</span>
        <Status value={data.status} />
        <span class="grow" />
        {rollouts.n > 0 && <a class="button" href={href(route.store, "rollouts", "", { run: data.run_id })}>{rollouts.n.toLocaleString("en-GB")} rollouts →</a>}
      </div>
      <div class="chips">
        <Chip label="started">{time(data.started_at)}</Chip>
        <Chip label={data.finished_at ? "took" : "for"}>{between(data.started_at, data.finished_at)}</Chip>
        {rollouts.reward !== null && <Chip label="reward">{number(rollouts.reward)}</Chip>}
        {rollouts.pass_rate !== null && <Chip label="pass rate">{percent(rollouts.pass_rate)}</Chip>}
        {data.incarnation > 0 && <Chip label="resumed">{data.incarnation}×</Chip>}
      </div>
      {data.status === "stale" && <div class="notice">The run did not end and its process is gone. The same command resumes it.</div>}
      {data.status === "failed" && summary && <div class="notice bad-notice"><strong>{summary.error}</strong> {summary.message}</div>}
      {data.kind === "collect" && <InFlight store={route.store} run={data.run_id} />}
      {data.metrics.length > 0 ? <Metrics route={route} run={data} stamp={stamp} /> : null}
      {rollouts.n > 0 && <Cloudy route={route} run={data} stamp={stamp} />}
      {data.metrics.includes("time/step") && <Phases route={route} run={data} stamp={stamp} />}
      {rollouts.n > 0 && <Lanes route={route} run={data.run_id} stamp={stamp} />}
      <div class="halves">
        <section class="card pad" aria-label="Configuration">
          <h2>Configuration</h2>
          <p class="soft small">Runs of this version keep the settings that differ from the defaults; earlier ones keep all.</p>
          {data.config && Object.keys(data.config).length ? <Json value={data.config} open={2} /> : <p class="soft">All settings are the defaults.</p>}
        </section>
        <section class="card pad" aria-label="Checkpoints">
          <h2>Checkpoints</h2>
          {!data.checkpoints.length && <p class="soft">None.</p>}
          {data.checkpoints.length > 0 && (
            <div class="scroll" tabIndex={0}>
              <table>
                <thead><tr><th>Checkpoint</th><th class="n">Step</th><th>Dataset</th><th>Saved</th></tr></thead>
                <tbody>{data.checkpoints.map((one) => <tr key={one.checkpoint_id} title={one.path}><td class="mono">{one.checkpoint_id}</td><td class="n">{one.step}</td><td>{one.dataset ?? "–"}</td><td>{time(one.created_at)}</td></tr>)}</tbody>
              </table>
            </div>
          )}
        </section>
        {data.validations.length > 0 && <Validations route={route} rows={data.validations} />}
        {data.dropped.length > 0 && (
          <section class="card pad" aria-label="Left out">
            <h2>Left out of batches</h2>
            <div class="scroll tall" tabIndex={0}>
              <table>
                <thead><tr><th class="n">Step</th><th>Reason</th><th class="n">Rollouts</th></tr></thead>
                <tbody>
                  {data.dropped.map((one, at) => (
                    <tr key={at}>
                      <td class="n">{one.step}</td>
                      <td>{one.reason ?? "no reason noted"}</td>
                      <td class="n"><a href={href(route.store, "rollouts", "", { run: data.run_id, step: String(one.step), kept: "false", reason: one.reason ?? "~" })}>{one.n}</a></td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          </section>
        )}
        {data.summary !== null && (
          <section class="card pad" aria-label="Summary">
            <details>
              <summary><b>Summary</b></summary>
              <Json value={data.summary} open={1} />
            </details>
          </section>
        )}
      </div>
    </div>
  );
}

/** The run's own evaluations by step; any two are compared task by task. */
function Validations({ route, rows }: { route: Route; rows: One["validations"] }) {
  const against = (a: string, b: string) => href(route.store, "compare", "", new URLSearchParams([["run", a], ["run", b]]));
  return (
    <section class="card pad" aria-label="Validations">
      <div class="bar tight">
        <h2>Validations</h2>
        <span class="grow" />
        {rows.length > 1 && <a class="small" href={against(rows[0].run_id, rows.at(-1)!.run_id)}>compare the first and the last</a>}
      </div>
      <div class="scroll tall" tabIndex={0} role="region" aria-label="Validations by step">
        <table>
          <thead><tr><th class="n">Step</th><th>Status</th><th class="n">Pass rate</th><th class="n">Tasks</th><th><span class="hidden">Comparison</span></th></tr></thead>
          <tbody>
            {rows.map((one, at) => (
              <tr key={one.run_id}>
                <td class="n"><a href={href(route.store, "rollouts", "", { run: one.run_id })} aria-label={`Rollouts of the validation at step ${one.step}`}>{one.step}</a></td>
                <td><Status value={one.status} /></td>
                <td class="n">{percent(one.pass_rate)}{one.stderr !== null && <span class="soft small"> ± {percent(one.stderr)}</span>}</td>
                <td class="n">{number(one.n)}</td>
                <td>{at > 0 && <a href={against(rows[at - 1].run_id, one.run_id)}>against step {rows[at - 1].step}</a>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Metrics({ route, run, stamp }: { route: Route; run: One; stamp: string }) {
  const asked = route.query.getAll("metric");
  const shown = asked.length ? asked : FIRST.filter((name) => run.metrics.includes(name)).slice(0, 4);
  const names = shown.length ? shown : run.metrics.slice(0, 2);
  const others = route.query.getAll("with");
  const smooth = Number(route.query.get("smooth") ?? 0);
  const runs = useData<Listed[]>(api(route.store, "runs")).data ?? [];
  const query = new URLSearchParams([...[run.run_id, ...others].map((one) => ["run", one]), ...names.map((one) => ["name", one])]);
  const { data } = useData<Curves>(api(route.store, "curves", "", query), stamp);
  const curves = useMemo(
    () => Object.fromEntries(names.map((name) => [name, [run.run_id, ...others].filter((one) => data?.[one]?.[name]).map((one): Curve => ({ label: one, steps: data![one][name][0], values: data![one][name][1] }))])),
    [data, query.toString()],
  );
  const toggle = (name: string) => withQuery(route, { metric: names.includes(name) ? names.filter((one) => one !== name) : [...names, name] });
  const onRange = (low: number, high: number) => go(withQuery(route, { step: `${low}..${high}` }));
  const comparable = runs.filter((one) => one.run_id !== run.run_id && one.spark && !others.includes(one.run_id));
  const step = route.query.get("step");
  return (
    <section class="card pad" aria-label="Curves">
      <div class="bar tight">
        <h2>Curves</h2>
        <select aria-label="Add a metric" value="" onChange={(event) => event.currentTarget.value && go(toggle(event.currentTarget.value))}>
          <option value="">add a metric…</option>
          {run.metrics.filter((name) => !names.includes(name)).map((name) => <option key={name}>{name}</option>)}
        </select>
        {comparable.length > 0 && (
          <select aria-label="Add a run" value="" onChange={(event) => event.currentTarget.value && go(withQuery(route, { with: [...others, event.currentTarget.value] }))}>
            <option value="">add a run…</option>
            {comparable.map((one) => <option key={one.run_id}>{one.run_id}</option>)}
          </select>
        )}
        <label class="soft small">Smoothing <input type="range" min={0} max={0.98} step={0.02} value={smooth} onInput={(event) => go(withQuery(route, { smooth: event.currentTarget.value === "0" ? null : event.currentTarget.value }), true)} /></label>
        <span class="grow" />
        {step && <span class="pill-text">steps {step} <a href={href(route.store, "rollouts", "", { run: run.run_id, step })}>rollouts</a> <a aria-label="Clear the steps" href={withQuery(route, { step: null })}>×</a></span>}
      </div>
      <div class="legend small">
        {[run.run_id, ...others].map((one, at) => (
          <span key={one}><i style={{ background: colour(at) }} /> {one} {at > 0 && <a aria-label={`Remove ${one}`} href={withQuery(route, { with: others.filter((other) => other !== one) })}>×</a>}</span>
        ))}
      </div>
      <div class="charts">
        {names.map((name) => (
          <div key={name} class="chart-box">
            <Chart title={name} curves={curves[name] ?? []} smooth={smooth} onRange={onRange} />
            <a class="remove" aria-label={`Remove ${name}`} href={toggle(name)}>×</a>
          </div>
        ))}
      </div>
      <p class="soft small">Drag over a chart to choose steps.</p>
    </section>
  );
}

function Cloudy({ route, run, stamp }: { route: Route; run: One; stamp: string }) {
  const { data } = useData<Cloud>(api(route.store, "scatter", run.run_id), stamp);
  const by = BY.find((one) => one === route.query.get("by")) ?? "status";
  const points = useMemo(
    () => data && { x: data.step.map((step, at) => step ?? data.place[at]), y: data.reward, kind: data[by].map((one) => String(one ?? "none")), id: data.rollout_id },
    [data, by],
  );
  const kinds = useMemo(() => {
    const counts = new Map<string, number>();
    for (const kind of points?.kind ?? []) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]).map(([kind]) => kind);
  }, [points]);
  if (!data || !points) return <Spinner />;
  if (!data.reward.some((reward) => reward !== null)) return <Empty title="None of its rollouts has a reward." />;
  const stepped = data.step.some((step) => step !== null);
  const [low, high] = (route.query.get("step") ?? "").split("..");
  const range: [number, number] | null = low ? [Number(low), Number(high || low)] : null;
  const onBox = (x: [number, number], y: [number, number]) => {
    const filter: Record<string, string> = { run: run.run_id, reward: `${y[0].toFixed(3)}..${y[1].toFixed(3)}` };
    if (stepped) filter.step = `${x[0]}..${x[1]}`;
    go(href(route.store, "rollouts", "", filter));
  };
  return (
    <section class="card pad" aria-label="Rollouts">
      <div class="bar tight">
        <h2>Rollouts</h2>
        <span class="soft small">reward by {stepped ? "step" : "order"}{data.rollout_id.length < data.total && `, ${data.rollout_id.length.toLocaleString("en-GB")} of ${data.total.toLocaleString("en-GB")}`}</span>
        <span class="grow" />
        <div class="segments" role="group" aria-label="Colour by">
          {BY.map((one) => <a key={one} href={withQuery(route, { by: one })} aria-current={one === by ? "true" : undefined}>{one}</a>)}
        </div>
      </div>
      <Scatter points={points} kinds={kinds} range={range} onPoint={(id) => go(href(route.store, "rollout", id, { run: run.run_id }))} onBox={onBox} />
      <div class="legend small">{kinds.slice(0, 12).map((kind, at) => <span key={kind}><i style={{ background: colour(at) }} /> {kind}</span>)}</div>
      <p class="soft small">Drag a box to filter the rollouts in it; click a point to open it.</p>
    </section>
  );
}

function Phases({ route, run, stamp }: { route: Route; run: One; stamp: string }) {
  const names = PHASES.map((name) => `time/${name}`).filter((name) => run.metrics.includes(name));
  const query = new URLSearchParams([["run", run.run_id], ...names.map((name) => ["name", name])]);
  const { data } = useData<Curves>(api(route.store, "curves", "", query), stamp);
  const found = data?.[run.run_id] ?? {};
  const steps = [...new Set(Object.values(found).flatMap(([steps]) => steps))].sort((a, b) => a - b);
  const bars = steps.slice(-40).map((step) => ({ step, parts: names.map((name) => found[name]?.[1][found[name][0].indexOf(step)] ?? 0) }));
  const most = Math.max(0.001, ...bars.map((bar) => bar.parts.reduce((sum, part) => sum + part, 0)));
  if (!bars.length) return null;
  return (
    <section class="card pad" aria-label="Phases">
      <div class="bar tight">
        <h2>Time of a step</h2>
        <span class="soft small">{steps.length > bars.length ? `the last ${bars.length} steps` : ""}</span>
        <span class="grow" />
        <div class="legend small">{names.map((name, at) => <span key={name}><i style={{ background: colour(at) }} /> {name.replace("time/", "")}</span>)}</div>
      </div>
      <div class="phases">
        {bars.map((bar) => {
          const sum = bar.parts.reduce((total, part) => total + part, 0);
          return (
            <div key={bar.step} role="img" aria-label={`step ${bar.step}: ${bar.parts.map((part, at) => `${names[at].replace("time/", "")} ${seconds(part)}`).join(", ")}`}>
              <span class="n soft small">{bar.step}</span>
              <div class="stack" style={{ width: `${Math.max(1, (70 * sum) / most)}%` }}>
                {bar.parts.map((part, at) => part > 0 && <i key={at} style={{ flexGrow: part / sum, background: colour(at) }} title={`${names[at].replace("time/", "")} ${seconds(part)}`} />)}
              </div>
              <span class="soft small">{seconds(sum)}</span>
            </div>
          );
        })}
      </div>
    </section>
  );
}
