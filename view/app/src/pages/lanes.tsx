// One step over time: a lane for each rollout, by the policy version that sampled it, and what the trainer did afterwards.
import { api, useData } from "../api";
import { number, seconds, short } from "../format";
import { colour } from "../plot";
import { go, href, type Route, withQuery } from "../route";

interface Step {
  step: number | null;
  steps: [number | null, number | null];
  total: number;
  rows: { rollout_id: string; start: number; duration: number | null; generate: number | null; tool: number | null; verify: number | null; policy_version: number | null; status: string; reward: number | null }[];
  phases: Record<string, number>;
} // prettier-ignore
type Lane = Step["rows"][number];

const WIDTH = 1000;
const PARTS = ["generate", "tool", "verify"] as const;

export function Lanes({ route, run, stamp }: { route: Route; run: string; stamp: string }) {
  const chosen = route.query.get("lane") ?? "";
  const { data } = useData<Step>(api(route.store, "lanes", run, chosen ? { step: chosen } : {}), stamp);
  if (!data || data.step === null) return null;
  const { rows, phases } = data;
  const sampled = Math.max(0.001, ...rows.map((row) => row.start + (row.duration ?? 0)));
  const trained = Object.values(phases).reduce((sum, one) => sum + one, 0);
  const x = WIDTH / (sampled + trained);
  const height = Math.max(4, Math.min(14, Math.floor(420 / Math.max(1, rows.length))));
  const versions = [...new Set(rows.map((row) => row.policy_version))].sort((a, b) => (a ?? -1) - (b ?? -1));
  const to = (step: number) => go(withQuery(route, { lane: String(step) }), true);
  let at = sampled;
  return (
    <section class="card pad" aria-label="One step">
      <div class="bar tight">
        <h2>One step</h2>
        <button class="quiet" aria-label="Previous step" disabled={data.step <= (data.steps[0] ?? data.step)} onClick={() => to(data.step! - 1)}>‹</button>
        <span>step {data.step}</span>
        <button class="quiet" aria-label="Next step" disabled={data.step >= (data.steps[1] ?? data.step)} onClick={() => to(data.step! + 1)}>›</button>
        <a class="small" href={href(route.store, "rollouts", "", { run, step: String(data.step) })}>{data.total.toLocaleString("en-GB")} rollouts</a>
        {rows.length < data.total && <span class="soft small">the first {rows.length} by start</span>}
        <span class="grow" />
        <div class="legend small">
          {versions.map((version, index) => <span key={version}><i style={{ background: colour(index) }} /> {version === null ? "no version" : `v${version}`}</span>)}
          <span><i class="lane-tool" /> tools</span>
          <span><i class="lane-verify" /> verifier</span>
          <span><i class="lane-trainer" /> trainer</span>
        </div>
      </div>
      {!rows.length && <p class="soft">No rollout of this step has a start time.</p>}
      {rows.length > 0 && (
        <>
          <svg class="lanes" viewBox={`0 0 ${WIDTH} ${rows.length * height}`} preserveAspectRatio="none" style={{ height: `${rows.length * height}px` }} role="img" aria-label={`${rows.length} rollouts of step ${data.step} over ${seconds(sampled)}, then ${seconds(trained)} of the trainer`}>
            {rows.map((row, index) => <Bars key={row.rollout_id} row={row} y={index * height} x={x} height={Math.max(2, height - 1)} fill={colour(versions.indexOf(row.policy_version))} open={() => go(href(route.store, "rollout", row.rollout_id, { run, step: String(data.step) }))} />)}
            {Object.entries(phases).map(([name, took]) => {
              const left = at * x;
              at += took;
              return (
                <rect key={name} class="lane-trainer" x={left} y={0} width={Math.max(1, took * x - 1)} height={rows.length * height}>
                  <title>{`${name} ${seconds(took)}`}</title>
                </rect>
              );
            })}
          </svg>
          <p class="soft small">
            0 to {seconds(sampled)} sampling; then {Object.entries(phases).map(([name, took]) => `${name} ${seconds(took)}`).join(", ") || "no times of the trainer"}. The space before a lane is its wait. A lane adds up its model calls, tools and verifier; they took turns.
          </p>
        </>
      )}
    </section>
  );
}

function Bars({ row, y, x, height, fill, open }: { row: Lane; y: number; x: number; height: number; fill: string; open: () => void }) {
  const known = PARTS.some((part) => row[part] !== null);
  const text = `${short(row.rollout_id)} ${row.status}, reward ${number(row.reward, 2)}, started at ${seconds(row.start)}: ${known ? PARTS.map((part) => `${part} ${seconds(row[part] ?? 0)}`).join(", ") : seconds(row.duration ?? 0)}`;
  let left = row.start * x;
  return (
    <g class="lane" onClick={open}>
      <title>{text}</title>
      <rect class="lane-rest" x={left} y={y} width={Math.max(1, (row.duration ?? 0) * x)} height={height} />
      {PARTS.map((part) => {
        const width = (row[part] ?? 0) * x;
        const bar = width > 0 && <rect key={part} class={part === "generate" ? "" : `lane-${part}`} fill={part === "generate" ? fill : undefined} x={left} y={y} width={width} height={height} />;
        left += width;
        return bar;
      })}
    </g>
  );
}
