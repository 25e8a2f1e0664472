// Runs, or steps of runs, against the first of them: verdict and interval by category, then a grid of cases, those that flipped first.
import { useState } from "preact/hooks";
import { api, useData } from "../api";
import { number, percent, short, signed } from "../format";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { go, href, type Route, withQuery } from "../route";
import type { Run } from "../types";
import { Chip, Empty, Failure, Spinner } from "../ui";
import { copyLink } from "./rollouts";

interface Part {
  benchmark: string | null; category: string | null; n: number; a: number; b: number; difference: number; low: number; high: number; only_a: number; only_b: number; p: number; moved: number; verdict: string;
}
interface Against {
  name: string; overall: Part[]; by_category: Part[]; only_in_a: number; only_in_b: number; differing: { setting: string; a: unknown; b: unknown }[];
}
interface Case {
  benchmark: string; mode: string; category: string; case_id: string; change: string; cells: ({ rate: number; n: number; rollout_id: string | null } | null)[];
}
interface Compared {
  of: string; names: string[]; comparisons: Against[]; cases: Case[]; total: number; flipped: number; offset: number;
}

const PAGE = 200;

export function Compare({ route, stamp }: PageProps) {
  const names = route.query.getAll("run");
  const query = new URLSearchParams([...route.query].filter(([name]) => ["run", "flips", "offset"].includes(name)));
  const { data, error } = useData<Compared>(names.length > 1 ? api(route.store, "compare", "", query) : null, stamp);
  const [at, setAt] = useState(-1);
  const offset = Number(route.query.get("offset") ?? 0);
  const cases = data?.cases ?? [];
  const open = (one: Case | undefined) => {
    const ids = (one?.cells ?? []).map((cell) => cell?.rollout_id).filter((id): id is string => !!id);
    if (ids.length > 1) go(href(route.store, "diff", ids[0], { with: ids.at(-1)! }));
    else if (ids.length) go(href(route.store, "rollout", ids[0]));
  };
  useKeys([
    { key: "j", does: "Next case", run: () => setAt(Math.min(cases.length - 1, at + 1)) },
    { key: "k", does: "Previous case", run: () => setAt(Math.max(0, at - 1)) },
    { key: "Enter", does: "Difference of the case's first and last rollout", run: () => open(cases[at]) },
    { key: "f", does: "Only the cases that flipped, and back", run: () => go(withQuery(route, { flips: route.query.get("flips") ? null : "true", offset: null })) },
    { key: "s", does: "Reverse the order of the runs", run: () => go(withQuery(route, { run: [...names].reverse() })) },
    { key: "y", does: "Copy a link to this view", run: () => void copyLink() },
  ]);
  return (
    <div class="compare">
      <div class="bar">
        <h1>Compare</h1>
        <Sides route={route} names={names} />
      </div>
      {names.length < 2 && <Empty title="A comparison is of two runs or more.">Add one above, or select them on the runs page. RUN@STEP is one step of a run.</Empty>}
      {error && <Failure error={error} />}
      {names.length > 1 && !data && !error && <Spinner />}
      {data && !error && names.length > 1 && (
        <>
          {data.comparisons.map((one) => <Numbers key={one.name} first={data.names[0]} one={one} of={data.of} />)}
          <div class="bar tight">
            <h2>Cases</h2>
            <div class="segments" role="group" aria-label="Cases">
              <a href={withQuery(route, { flips: null, offset: null })} aria-current={route.query.get("flips") ? undefined : "true"}>all</a>
              <a href={withQuery(route, { flips: "true", offset: null })} aria-current={route.query.get("flips") ? "true" : undefined}>flipped {data.flipped.toLocaleString("en-GB")}</a>
            </div>
            <span class="grow" />
            <span class="soft small" role="status">{data.total ? `${(offset + 1).toLocaleString("en-GB")} to ${Math.min(data.total, offset + PAGE).toLocaleString("en-GB")} of ${data.total.toLocaleString("en-GB")}` : "none"}</span>
            <button disabled={offset === 0} onClick={() => go(withQuery(route, { offset: String(Math.max(0, offset - PAGE)) }))}>‹ before</button>
            <button disabled={offset + PAGE >= data.total} onClick={() => go(withQuery(route, { offset: String(offset + PAGE) }))}>after ›</button>
          </div>
          {!data.total && <Empty title="No case flipped." />}
          {data.total > 0 && <Grid route={route} data={data} at={at} />}
        </>
      )}
    </div>
  );
}

/** The runs as chips, and a way to add one. */
function Sides({ route, names }: { route: Route; names: string[] }) {
  const runs = useData<Run[]>(api(route.store, "runs")).data ?? [];
  const add = (name: string) => name && !names.includes(name) && go(withQuery(route, { run: [...names, name], offset: null }));
  return (
    <>
      <ul class="active sides-list" aria-label="Runs compared">
        {names.map((name, at) => (
          <li key={name}>
            <a href={withQuery(route, { run: names.filter((one) => one !== name), offset: null })} title={`Remove ${name}`}>
              <span class="chip-label">{at ? "b" : "a"}</span> {name} <span aria-hidden="true">×</span><span class="hidden"> remove</span>
            </a>
          </li>
        ))}
      </ul>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const field = event.currentTarget.elements.namedItem("side") as HTMLInputElement;
          add(field.value.trim());
          field.value = "";
        }}
      >
        <input name="side" list="known-runs" placeholder="add RUN or RUN@STEP" aria-label="Add a run" />
        <datalist id="known-runs">{runs.filter((one) => one.rollouts > 0).map((one) => <option key={one.run_id} value={one.run_id} />)}</datalist>
      </form>
    </>
  );
}

function Numbers({ first, one, of }: { first: string; one: Against; of: string }) {
  const parts = [...(one.by_category.length > 1 ? one.by_category : []), ...one.overall];
  return (
    <section class="card pad" aria-label={`${one.name} against ${first}`}>
      <div class="bar tight">
        <h2>{one.name} against {first}</h2>
        <span class="soft small">verdicts of {of === "evaluations" ? "the evaluations" : "the rollouts, by task"}</span>
        {(one.only_in_a > 0 || one.only_in_b > 0) && <Chip label="not in both" tone="warn-chip">{one.only_in_a} only in {first}, {one.only_in_b} only in {one.name}</Chip>}
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label={`Numbers of ${one.name}`}>
        <table>
          <thead><tr><th>Category</th><th class="n">Cases</th><th class="n">{first}</th><th class="n">{one.name}</th><th class="n">Difference</th><th>95 % interval</th><th class="n">Lost</th><th class="n">Gained</th><th class="n">p</th><th>Verdict</th></tr></thead>
          <tbody>
            {parts.map((part, at) => (
              <tr key={at}>
                <td>{part.category === null ? <b>all of {part.benchmark}</b> : part.category || part.benchmark}</td>
                <td class="n">{number(part.n)}</td>
                <td class="n">{percent(part.a)}</td>
                <td class="n">{percent(part.b)}</td>
                <td class="n">{signed(part.difference, 3)}</td>
                <td class="nowrap"><Interval part={part} /> <span class="soft small">{signed(part.low, 2)} to {signed(part.high, 2)}</span></td>
                <td class="n">{part.only_a}</td>
                <td class="n">{part.only_b}</td>
                <td class="n">{number(part.p, 2)}</td>
                <td class={`verdict-${part.verdict}`}>{part.verdict}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {one.differing.length > 0 && <p class="small soft">Their settings differ in {one.differing.map((entry) => `${entry.setting} (${JSON.stringify(entry.a)}, ${JSON.stringify(entry.b)})`).join("; ")}.</p>}
    </section>
  );
}

/** The interval on a scale from −1 to 1, with a line at zero. */
function Interval({ part }: { part: Part }) {
  const kind = part.verdict === "better" ? "good-bar" : part.verdict === "worse" ? "bad-bar" : "";
  return (
    <span class="interval" aria-hidden="true">
      <i class={kind} style={{ left: `${50 * (1 + part.low)}%`, width: `${50 * (part.high - part.low)}%` }} />
      <b />
    </span>
  );
}

function Grid({ route, data, at }: { route: Route; data: Compared; at: number }) {
  const several = new Set(data.cases.map((one) => `${one.benchmark} ${one.mode}`)).size > 1;
  return (
    <div class="scroll card" tabIndex={0} role="region" aria-label="Cases by run">
      <table>
        <thead><tr><th>Case</th><th>Category</th>{data.names.map((name) => <th key={name}>{name}</th>)}<th>Change</th><th><span class="hidden">Difference</span></th></tr></thead>
        <tbody>
          {data.cases.map((one, index) => {
            const ids = one.cells.map((cell) => cell?.rollout_id).filter((id): id is string => !!id);
            return (
              <tr key={`${one.benchmark}/${one.mode}/${one.category}/${one.case_id}`} class={index === at ? "chosen" : ""} aria-current={index === at ? "true" : undefined}>
                <td class="mono" title={one.case_id}>{short(one.case_id)}</td>
                <td>{one.category || "–"}{several && <span class="soft small"> {one.benchmark} {one.mode}</span>}</td>
                {one.cells.map((cell, side) => <td key={side}><Cell route={route} cell={cell} /></td>)}
                <td>{one.change === "same" ? <span class="soft">–</span> : <span class={one.change === "lost" ? "bad" : "good"}>{one.change}</span>}</td>
                <td>{ids.length > 1 && <a href={href(route.store, "diff", ids[0], { with: ids.at(-1)! })} aria-label={`Difference of case ${short(one.case_id)}`}>difference</a>}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function Cell({ route, cell }: { route: Route; cell: Case["cells"][number] }) {
  if (!cell) return <span class="soft" title="not judged">–</span>;
  const kind = cell.rate === 1 ? "cell-pass" : cell.rate === 0 ? "cell-fail" : "cell-mixed";
  const text = cell.n === 1 ? (cell.rate ? "✓ pass" : "✗ fail") : `${Math.round(cell.rate * cell.n)} of ${cell.n}`;
  return cell.rollout_id ? <a class={`cell ${kind}`} href={href(route.store, "rollout", cell.rollout_id)}>{text}</a> : <span class={`cell ${kind}`}>{text}</span>;
}
