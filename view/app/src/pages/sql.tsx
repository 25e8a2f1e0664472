// One SELECT over the store, with the checks and limits of `rollhouse sql`.
import { useState } from "preact/hooks";
import { ApiError, api, useData } from "../api";
import { number, visible } from "../format";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { go, href, withQuery } from "../route";
import { Copy, Failure, Spinner } from "../ui";

interface Answer {
  columns: string[];
  types: string[];
  rows: unknown[][];
  more: boolean;
  seconds: number;
}

const EXAMPLES: [string, string][] = [
  ["Pass rate by category", "select category, count(*) as n, avg(passed::int) as pass_rate\nfrom final_rollouts join tasks using (task_id)\ngroup by category order by pass_rate"],
  ["What batches left out", "select run_id, step, reason, count(*) as n\nfrom training_samples where not kept group by all order by step"],
  ["Tasks only some rollouts solve", "select task_id, group_id, n, n_passed, std_reward\nfrom groups where not zero_variance order by std_reward desc limit 50"],
];
const PLACES: Record<string, string> = { rollout_id: "rollout" };

export function Sql({ route }: PageProps) {
  const asked = route.query.get("query") ?? "";
  const [text, setText] = useState(asked || EXAMPLES[0][1]);
  const { data, error, loading } = useData<Answer>(asked ? api(route.store, "sql", "", { query: asked }) : null);
  const run = () => go(withQuery(route, { query: text }));
  useKeys([{ key: "/", does: "Edit the query", run: () => document.getElementById("query")?.focus() }]);
  return (
    <>
      <div class="bar">
        <h1>SQL</h1>
        <span class="soft">One SELECT over the tables and views of the store. It cannot change anything.</span>
      </div>
      <div class="card pad">
        <label class="hidden" for="query">Query</label>
        <textarea
          id="query"
          class="mono"
          rows={6}
          spellcheck={false}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
          }}
        />
        <div class="bar tight">
          <button class="primary" onClick={run}>Run</button>
          <span class="soft small">Ctrl + Enter</span>
          <span class="grow" />
          {EXAMPLES.map(([name, query]) => (
            <button key={name} class="quiet" onClick={() => setText(query)}>{name}</button>
          ))}
          <Copy text={`rollhouse sql ${quote(text)}`} title="The command that prints the same rows">copy as command</Copy>
        </div>
      </div>
      {asked && loading && !data && <Spinner />}
      {asked && error && <Failure error={error instanceof ApiError ? error : new ApiError(String(error), "")} />}
      {asked && data && !error && (
        <>
          <p class="soft small">
            {data.more ? `The first ${data.rows.length.toLocaleString("en-GB")} rows` : `${data.rows.length} rows`} in {number(data.seconds, 2)} s
          </p>
          <div class="scroll card" tabIndex={0} role="region" aria-label="Rows">
            <table>
              <thead>
                <tr>
                  {data.columns.map((name, at) => (
                    <th key={at} scope="col" class={/int|double|float|decimal/.test(data.types[at]) ? "n" : ""}>{visible(name)}</th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {data.rows.map((row, at) => (
                  <tr key={at}>
                    {row.map((value, column) => (
                      <td key={column} class={typeof value === "number" ? "n" : "cut"}>{cell(route.store, data.columns[column], value)}</td>
                    ))}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </>
  );
}

function cell(store: string, column: string, value: unknown) {
  if (value === null || value === undefined) return <span class="soft">null</span>;
  if (typeof value === "number") return number(value, 4);
  const text = visible(String(value));
  return column in PLACES ? <a class="mono" href={href(store, PLACES[column], String(value))}>{text}</a> : text;
}

/** The text as one argument of a POSIX shell. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
