// Every run with its state, how it does, what it cost.
import { useMemo } from "preact/hooks";
import { api, useData } from "../api";
import { ago, between, compact, number, percent, time } from "../format";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { go, href, withQuery } from "../route";
import type { Run } from "../types";
import { Empty, Failure, Spark, Spinner, Status, toast } from "../ui";

const SORTS: Record<string, (run: Run) => string | number> = {
  started: (run) => run.started_at,
  name: (run) => run.name,
  kind: (run) => run.kind,
  status: (run) => run.status,
  rollouts: (run) => run.rollouts,
  reward: (run) => run.reward ?? -Infinity,
  pass: (run) => run.pass_rate ?? -Infinity,
  failures: (run) => run.failures ?? 0,
  tokens: (run) => run.tokens ?? 0,
};
const HEADS: [string, string, string][] = [
  ["name", "Run", ""], ["status", "Status", ""], ["", "Curve", "wide"], ["rollouts", "Rollouts", "n"], ["reward", "Reward", "n"], ["pass", "Pass", "n"],
  ["failures", "Failed", "n mid"], ["tokens", "Tokens", "n mid"], ["", "Model", "wide"], ["", "Dataset", "wide"], ["started", "Started", "n"],
]; // prettier-ignore

export function Runs({ route, stamp }: PageProps) {
  const { data, error } = useData<Run[]>(api(route.store, "runs"), stamp);
  const kind = route.query.get("kind") ?? "";
  const words = route.query.get("q") ?? "";
  const sort = route.query.get("sort") ?? "-started";
  const shown = useMemo(() => {
    const by = SORTS[sort.replace("-", "")] ?? SORTS.started;
    const rows = (data ?? []).filter((run) => (!kind || run.kind === kind) && [run.run_id, run.model, run.dataset, run.status].join(" ").toLowerCase().includes(words.toLowerCase()));
    rows.sort((a, b) => (by(a) < by(b) ? -1 : by(a) > by(b) ? 1 : 0) * (sort.startsWith("-") ? -1 : 1));
    return rows;
  }, [data, kind, words, sort]);
  const picked = route.query.getAll("pick");
  const compared = href(route.store, "compare", "", new URLSearchParams(picked.map((one) => ["run", one])));
  useKeys([
    { key: "/", does: "Search the runs", run: () => document.getElementById("words")?.focus() },
    { key: "c", does: "Compare the selected runs", run: () => (picked.length > 1 ? go(compared) : toast("Select two runs first")) },
  ]);
  const kinds = [...new Set((data ?? []).map((run) => run.kind))].sort();
  return (
    <>
      <div class="bar">
        <h1>Runs</h1>
        <input id="words" type="search" placeholder="Name, model, dataset…" aria-label="Search the runs" value={words} onInput={(event) => go(withQuery(route, { q: event.currentTarget.value || null }), true)} />
        <div class="segments" role="group" aria-label="Kind">
          {["", ...kinds].map((one) => (
            <a key={one} href={withQuery(route, { kind: one || null })} aria-current={one === kind ? "true" : undefined}>
              {one || "all"}
            </a>
          ))}
        </div>
        {picked.length > 0 && (
          <>
            <span class="grow" />
            {picked.length > 1 ? <a class="button" href={compared}>compare {picked.length} runs</a> : <span class="soft small">select another run to compare</span>}
            <a class="small" href={withQuery(route, { pick: null })}>clear</a>
          </>
        )}
      </div>
      {error && <Failure error={error} />}
      {!data && !error && <Spinner />}
      {data && !shown.length && (
        <Empty title={data.length ? "No run fits the filter." : "This store has no runs yet."}>
          {data.length ? "Clear the search or choose another kind." : <code>rollhouse collect --env workplace-mini --engine scripted</code>}
        </Empty>
      )}
      {shown.length > 0 && (
        <div class="scroll card" tabIndex={0} role="region" aria-label="Runs">
          <table class="runs">
            <thead>
              <tr>
                {HEADS.map(([name, label, kinds]) => (
                  <th key={label} scope="col" class={kinds} aria-sort={name && sort.replace("-", "") === name ? (sort.startsWith("-") ? "descending" : "ascending") : undefined}>
                    {name ? <a href={withQuery(route, { sort: sort === `-${name}` ? name : `-${name}` })}>{label}</a> : label}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {shown.map((run) => (
                <tr key={run.run_id}>
                  <td>
                    {run.rollouts > 0 && <input type="checkbox" class="pick" aria-label={`Select ${run.name} to compare`} checked={picked.includes(run.run_id)} onChange={() => go(withQuery(route, { pick: picked.includes(run.run_id) ? picked.filter((one) => one !== run.run_id) : [...picked, run.run_id] }), true)} />}
                    <a class="strong" href={href(route.store, "run", run.run_id)}>{run.name}</a>
                    <span class="kind">{run.kind}</span>
                  </td>
                  <td>
                    <Status value={run.status} />
                    {run.incarnation > 0 && <span class="soft small"> resumed {run.incarnation}×</span>}
                  </td>
                  <td class="wide">
                    <Spark values={run.spark} label="Reward or loss by step" />
                  </td>
                  <td class="n">{run.rollouts ? <a href={href(route.store, "rollouts", "", { run: run.run_id })} aria-label={`${run.rollouts} rollouts of ${run.name}`}>{run.rollouts.toLocaleString("en-GB")}</a> : "–"}</td>
                  <td class="n">{number(run.reward)}</td>
                  <td class="n">{percent(run.pass_rate)}</td>
                  <td class="n mid">{run.failures ? <span class="bad">{run.failures.toLocaleString("en-GB")}</span> : <span class="soft">{run.rollouts ? 0 : "–"}</span>}</td>
                  <td class="n mid">{run.tokens ? compact(run.tokens) : "–"}</td>
                  <td class="wide cut" title={run.model ?? ""}>{run.model ?? "–"}</td>
                  <td class="wide cut">{run.dataset ?? "–"}</td>
                  <td class="n" title={time(run.started_at)}>
                    {ago(run.started_at)}
                    <span class="soft small block">{between(run.started_at, run.finished_at)}</span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}
