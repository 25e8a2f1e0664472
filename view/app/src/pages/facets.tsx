// The filter beside the table: what there is, how much of it, and what is chosen.
import { useState } from "preact/hooks";
import { number, short } from "../format";
import { go, type Route, withQuery } from "../route";
import type { Counted, Facets } from "../types";

export const TITLES: Record<string, string> = {
  run: "Run", env: "Environment", category: "Category", split: "Split", status: "Status", passed: "Passed", kept: "In the batch", reason: "Left out because", error: "Failed at", engine: "Engine", policy: "Policy",
  version: "Policy version", step: "Step", reward: "Reward", advantage: "Advantage", staleness: "Staleness", turns: "Turns", calls: "Tool calls", errors: "Tool errors", tokens: "Tokens", seconds: "Seconds", attempt: "Attempt",
  started: "Started", group: "Group", task: "Task", gap: "Gap", tool: "Tool", scorer: "Verdict", dataset: "In dataset", label: "Label", q: "Words", where: "Where",
}; // prettier-ignore
const FEW = 6;
const WORDS: Record<string, string> = { true: "yes", false: "no", "~": "none" };

export function Sidebar({ route, facets }: { route: Route; facets?: Facets }) {
  const narrow = matchMedia("(max-width: 900px)").matches;
  const [where, setWhere] = useState(route.query.get("where") ?? "");
  const apply = () => go(withQuery(route, { where: where || null }));
  return (
    <details class="side" open={!narrow}>
      <summary>Filter</summary>
      {facets && (
        <>
          {["status", "passed"].map((name) => <Choice key={name} route={route} name={name} values={facets.choices[name]} />)}
          {["reward", "step"].map((name) => <Range key={name} route={route} name={name} range={facets.ranges[name]} />)}
          {["run", "category", "env", "kept", "reason"].map((name) => <Choice key={name} route={route} name={name} values={facets.choices[name]} />)}
          {["turns", "calls", "errors", "tokens"].map((name) => <Range key={name} route={route} name={name} range={facets.ranges[name]} />)}
          <Free route={route} name="advantage" hint="-1..0" />
          <Free route={route} name="staleness" hint="2.." />
          <Choice route={route} name="version" values={facets.choices.version} />
          <Free route={route} name="tool" hint="email_send" />
          <Choice route={route} name="scorer" values={facets.scorers.flatMap(verdicts)} />
          <Choice route={route} name="dataset" values={facets.datasets} />
          <Choice route={route} name="label" values={facets.labels} />
          {["error", "engine"].map((name) => <Choice key={name} route={route} name={name} values={facets.choices[name]} />)}
          <Free route={route} name="gap" hint="no_token_ids" />
          <form
            class="facet"
            onSubmit={(event) => {
              event.preventDefault();
              apply();
            }}
          >
            <label for="where">Where</label>
            <input id="where" class="mono" placeholder="n_turns > 3 and reward = 0" title="A condition on the columns of rollouts, in SQL" value={where} onInput={(event) => setWhere(event.currentTarget.value)} />
          </form>
        </>
      )}
    </details>
  );
}

function verdicts(scorer: Counted): Counted[] {
  return ["passed", "failed", "flipped"].map((verdict) => ({ value: `${scorer.value}:${verdict}`, n: -1 }));
}

function Choice({ route, name, values }: { route: Route; name: string; values?: Counted[] }) {
  const [all, setAll] = useState(false);
  const chosen = route.query.getAll(name);
  const listed = (values ?? []).map((one) => ({ value: one.value ?? "~", n: one.n }));
  for (const value of chosen) if (!listed.some((one) => one.value === value)) listed.push({ value, n: 0 });
  // One value alone leaves nothing to choose.
  if (listed.length < 2 && !chosen.length) return null;
  const most = Math.max(1, ...listed.map((one) => one.n));
  const shown = all ? listed : listed.filter((one, at) => at < FEW || chosen.includes(one.value));
  const toggled = (value: string) => withQuery(route, { [name]: chosen.includes(value) ? chosen.filter((one) => one !== value) : [...chosen, value] });
  return (
    <fieldset class="facet">
      <legend>{TITLES[name]}</legend>
      <ul>
        {shown.map((one) => (
          <li key={one.value}>
            <label title={one.value}>
              <input type="checkbox" checked={chosen.includes(one.value)} onChange={() => go(toggled(one.value))} />
              <span class="cut">{WORDS[one.value] ?? short(one.value)}</span>
              {one.n >= 0 && (
                <>
                  <meter min={0} max={most} value={one.n} aria-hidden="true" />
                  <span class="n">{one.n.toLocaleString("en-GB")}</span>
                </>
              )}
            </label>
          </li>
        ))}
      </ul>
      {listed.length > FEW && (
        <button class="link small" onClick={() => setAll(!all)}>
          {all ? "fewer" : `${listed.length - FEW} more`}
        </button>
      )}
    </fieldset>
  );
}

function Range({ route, name, range }: { route: Route; name: string; range?: { low: number; high: number; bins: number[] } }) {
  const value = route.query.get(name) ?? "";
  const [low = "", high = ""] = value.includes("..") ? value.split("..") : [value, value];
  if (!range || (range.low === range.high && !value)) return null;
  const set = (from: string, to: string) => go(withQuery(route, { [name]: from || to ? (from === to ? from : `${from}..${to}`) : null }));
  const most = Math.max(1, ...range.bins);
  const width = (range.high - range.low) / range.bins.length;
  return (
    <fieldset class="facet">
      <legend>{TITLES[name]}</legend>
      <div class="bins">
        {range.bins.map((n, at) => {
          const [from, to] = [range.low + at * width, range.low + (at + 1) * width].map((end) => String(Number(end.toPrecision(4))));
          return (
            <button key={at} title={`${from} to ${to}: ${n}`} aria-label={`${TITLES[name]} ${from} to ${to}, ${n} rollouts`} onClick={() => set(from, to)}>
              <i style={{ height: `${n ? Math.max(8, (100 * n) / most) : 0}%` }} />
            </button>
          );
        })}
      </div>
      <div class="ends">
        <input inputMode="decimal" aria-label={`${TITLES[name]} from`} placeholder={number(range.low, 2)} value={low} onChange={(event) => set(event.currentTarget.value, high)} />
        <span class="soft">to</span>
        <input inputMode="decimal" aria-label={`${TITLES[name]} to`} placeholder={number(range.high, 2)} value={high} onChange={(event) => set(low, event.currentTarget.value)} />
      </div>
    </fieldset>
  );
}

function Free({ route, name, hint }: { route: Route; name: string; hint: string }) {
  const id = `facet-${name}`;
  return (
    <div class="facet">
      <label for={id}>{TITLES[name]}</label>
      <input id={id} placeholder={hint} value={route.query.get(name) ?? ""} onChange={(event) => go(withQuery(route, { [name]: event.currentTarget.value || null }))} />
    </div>
  );
}
