// Every verdict on the rollout: that of collection time, and each scorer version's since.
import { number, time, visible } from "../format";
import type { Route } from "../route";
import type { Component, Details } from "../types";
import { Empty, Verdict } from "../ui";

export function Scores({ data }: { route: Route; data: Details }) {
  const { rollout } = data;
  const first = rollout.scorer || rollout.reward !== null
    ? [{ scorer: rollout.scorer ?? "unnamed", scorer_version: rollout.scorer_version ?? "", reward: rollout.reward, passed: rollout.passed, components: rollout.reward_components, rationale: rollout.rationale, error_type: null, config_hash: null, run_id: rollout.run_id, created_at: "" }]
    : []; // prettier-ignore
  const all = [...first, ...data.scores];
  if (!all.length) return <Empty title="No scorer has judged this rollout."><code>rollhouse rescore --scorer NAME</code></Empty>;
  const flipped = new Set(all.map((one) => one.passed).filter((one) => one !== null)).size > 1;
  return (
    <div class="column">
      {flipped && <div class="notice">The verdicts disagree.</div>}
      {all.map((one, at) => (
        <section class="card pad" key={at} aria-label={`Verdict of ${one.scorer}`}>
          <div class="bar tight">
            <h2>{visible(one.scorer)}<span class="soft">@{visible(one.scorer_version)}</span></h2>
            <span class="grow" />
            <strong class="big">{number(one.reward, 3)}</strong>
            <Verdict passed={one.passed} />
          </div>
          <p class="soft small">{one.created_at ? `judged ${time(one.created_at)} by ${one.run_id ?? "a person"}` : "at collection time"}{one.error_type && `; could not be scored: ${one.error_type}`}</p>
          <Components parts={one.components ?? []} />
          {one.rationale && <><h3>The judge's words</h3><pre class="plain">{visible(one.rationale)}</pre></>}
        </section>
      ))}
      {data.evaluations.length > 0 && (
        <section class="card pad">
          <h2>Evaluations</h2>
          <table>
            <thead><tr><th>Run</th><th>Benchmark</th><th>Category</th><th>Mode</th><th class="n">Score</th><th>Verdict</th></tr></thead>
            <tbody>
              {data.evaluations.map((one, at) => (
                <tr key={at}><td>{one.run_id}</td><td>{one.benchmark}</td><td>{one.category ?? "–"}</td><td>{one.mode}</td><td class="n">{number(one.score)}</td><td><Verdict passed={one.passed} /></td></tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </div>
  );
}

function Components({ parts }: { parts: Component[] }) {
  if (!parts.length) return null;
  return (
    <table>
      <thead><tr><th>Part</th><th class="n">Value</th><th class="n">Weight</th></tr></thead>
      <tbody>
        {parts.map((part) => (
          <tr key={part.name}><td>{visible(part.name)}</td><td class="n">{number(part.value)}</td><td class="n">{number(part.weight)}</td></tr>
        ))}
      </tbody>
    </table>
  );
}
