// Where the rollout went: batches, checkpoints, datasets; and who its relatives are.
import { number, percent, short, signed } from "../format";
import { filterOf, href, type Route, withQuery } from "../route";
import type { Details, Went } from "../types";
import { Status, Verdict } from "../ui";

export function Lineage({ route, details, data }: { route: Route; details: Details; data: Went }) {
  const link = (id: string) => href(route.store, "rollout", id, filterOf(route.query));
  const used = data.samples.filter((sample) => sample.trained).length;
  return (
    <div class="column">
      <section class="card pad" aria-label="Batches">
        <h2>Batches</h2>
        {!data.samples.length && <p class="soft">No optimizer step planned to use this rollout.</p>}
        {data.samples.length > 0 && (
          <div class="scroll" tabIndex={0}>
            <table>
              <thead><tr><th>Run</th><th class="n">Step</th><th class="n">Advantage</th><th>In the batch</th><th class="n">Staleness</th><th class="n">Mean ratio</th><th class="n">Clipped</th></tr></thead>
              <tbody>
                {data.samples.map((one, at) => (
                  <tr key={at}>
                    <td>{one.run_id}</td>
                    <td class="n">{one.step}</td>
                    <td class="n">{signed(one.advantage)}</td>
                    <td>{one.kept ? (one.trained ? <span class="good">trained on</span> : "planned; the step was not taken") : <span class="warn">left out: {one.reason ?? "no reason noted"}</span>}</td>
                    <td class="n">{one.plan_version !== null && details.rollout.policy_version !== null && one.run_id === details.rollout.run_id ? one.plan_version - details.rollout.policy_version : "–"}</td>
                    <td class="n">{number(one.ratio_mean, 4)}</td>
                    <td class="n">{percent(one.clipped_share)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </section>
      <section class="card pad" aria-label="Checkpoints">
        <h2>Checkpoints that learned from it</h2>
        {data.checkpoints.length ? (
          <ul class="plainlist">
            {data.checkpoints.map((one) => (
              <li key={one.checkpoint_id}><code>{one.checkpoint_id}</code> is the first after step {one.trained_at}{one.later > 0 && `; ${one.later} later ${one.later === 1 ? "one descends" : "ones descend"} from it`}.</li>
            ))}
          </ul>
        ) : (
          <p class="soft">{used ? "No checkpoint was saved after the step that trained on it." : "None by a training step."}{data.datasets.some((one) => one.inside) && " Runs on the datasets below may have."}</p>
        )}
      </section>
      <section class="card pad" aria-label="Datasets">
        <h2>Datasets</h2>
        {!data.datasets.length && <p class="soft">This store has no dataset.</p>}
        {data.datasets.length > 0 && (
          <div class="scroll" tabIndex={0}>
            <table>
              <thead><tr><th>Dataset</th><th>Kind</th><th>Snapshot</th><th>This rollout</th></tr></thead>
              <tbody>
                {data.datasets.map((one) => (
                  <tr key={`${one.name}@${one.version}`}>
                    <td><a href={href(route.store, "dataset", `${one.name}@${one.version}`)}>{one.name}@{one.version}</a></td>
                    <td>{one.kind}</td>
                    <td>{one.snapshot}</td>
                    <td>{one.inside ? <span class="good">{one.role ?? "in"}, row {one.row}{one.weight !== null && one.weight !== 1 && `, weight ${number(one.weight)}`}</span> : one.reason ? <span class="warn">left out: {one.reason}</span> : <span class="soft">not among what the recipe looked at</span>}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </section>
      {data.group.length > 1 && (
        <section class="card pad" aria-label="Group">
          <h2>{details.rollout.group_id ? <a href={href(route.store, "group", details.rollout.group_id)}>Its group of {data.group.length}</a> : `Its group of ${data.group.length}`}</h2>
          <div class="scroll" tabIndex={0}>
            <table>
              <thead><tr><th>Rollout</th><th class="n">Sample</th><th>Status</th><th class="n">Reward</th><th>Verdict</th><th class="n">Advantage</th><th class="n">Turns</th><th><span class="hidden">Difference</span></th></tr></thead>
              <tbody>
                {data.group.map((one) => (
                  <tr key={one.rollout_id} class={one.rollout_id === details.rollout.rollout_id ? "chosen" : ""}>
                    <td><a class="mono" href={link(one.rollout_id)}>{short(one.rollout_id)}</a></td>
                    <td class="n">{one.sample_index}{one.attempt ? `, attempt ${one.attempt + 1}` : ""}</td>
                    <td><Status value={one.status} /></td>
                    <td class="n">{number(one.reward, 2)}</td>
                    <td><Verdict passed={one.passed} /></td>
                    <td class="n">{signed(one.advantage)}</td>
                    <td class="n">{one.n_turns}</td>
                    <td>{one.rollout_id !== details.rollout.rollout_id && <a href={href(route.store, "diff", details.rollout.rollout_id, { with: one.rollout_id })}>difference</a>}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </section>
      )}
      {data.relatives.length > 0 && (
        <section class="card pad" aria-label="Relatives">
          <h2>Other rows of its episode and slot</h2>
          <ul class="plainlist">
            {data.relatives.map((one) => (
              <li key={one.rollout_id}><a class="mono" href={link(one.rollout_id)}>{short(one.rollout_id)}</a> {one.same_slot ? `attempt ${(one.attempt ?? 0) + 1}` : `agent ${one.agent}, branch ${one.branch}`} <Status value={one.status} /> {number(one.reward, 2)}</li>
            ))}
          </ul>
        </section>
      )}
      <p class="small soft"><a href={withQuery(route, { tab: "raw" })}>All of it as JSON</a></p>
    </div>
  );
}
