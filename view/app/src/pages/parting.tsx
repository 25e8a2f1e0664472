// Where two rollouts part first: the message, the tool call and the token.
import { api, useData } from "../api";
import { parse, short, visible } from "../format";
import { href, type Route } from "../route";
import { sequence } from "../strip";
import type { Call, Details, Message, Strip } from "../types";

interface Called {
  call: Call;
  /** Position of its message among all, the prompt's first. */
  turn: number;
}

function calls(messages: Message[]): Called[] {
  return messages.flatMap((message, turn) => (message.tool_calls ?? []).map((call) => ({ call, turn })));
}

/** Position of the first entry in which the lists differ; null when they are the same. */
function parts<T>(left: T[], right: T[], same: (a: T, b: T) => boolean): number | null {
  let at = 0;
  while (at < left.length && at < right.length && same(left[at], right[at])) at++;
  return at === left.length && at === right.length ? null : at;
}

export function Parting({ route, sides, talks }: { route: Route; sides: [Details, Details]; talks: [Message[], Message[]] }) {
  const [left, right] = [calls(talks[0]), calls(talks[1])];
  const at = parts(left, right, (a, b) => a.call.name === b.call.name && a.call.arguments === b.call.arguments);
  const ids = sides.map((side) => side.rollout.rollout_id);
  const shown = (called: Called | undefined, side: number) =>
    called ? (
      <a href={href(route.store, "rollout", ids[side], { turn: String(called.turn) })}>
        <code>{called.call.name}({visible(JSON.stringify(parse(called.call.arguments) ?? called.call.arguments)).slice(0, 300)})</code>
      </a>
    ) : (
      <span class="soft">no further call</span>
    );
  return (
    <section class="card pad parting" aria-label="First differences">
      <table>
        <thead><tr><th>First difference</th><th>Left</th><th>Right</th></tr></thead>
        <tbody>
          <tr>
            <td class="nowrap">{at === null ? "Call" : `Call ${at + 1}`}</td>
            {at === null ? <td colSpan={2} class="soft">{left.length ? `All ${left.length} calls are the same.` : "Neither calls a tool."}</td> : <><td>{shown(left[at], 0)}</td><td>{shown(right[at], 1)}</td></>}
          </tr>
          <Tokens route={route} sides={sides} />
        </tbody>
      </table>
    </section>
  );
}

function Tokens({ route, sides }: { route: Route; sides: [Details, Details] }) {
  const ids = sides.map((side) => side.rollout.rollout_id);
  const left = useData<Strip>(api(route.store, "tokens", ids[0])).data;
  const right = useData<Strip>(api(route.store, "tokens", ids[1])).data;
  const row = (says: string) => <tr><td>Token</td><td colSpan={2} class="soft">{says}</td></tr>;
  if (!left || !right) return row("Loading…");
  const missing = [left, right].map((one, at) => (one.ids ? null : short(ids[at]))).filter(Boolean);
  if (missing.length) return row(`The tokens of ${missing.join(" and ")} were not kept.`);
  if (sides[0].rollout.tokenizer_hash !== sides[1].rollout.tokenizer_hash) return row("Their tokenizers differ, so their ids are not compared.");
  if (!left.prompt_ids.length !== !right.prompt_ids.length) return row("The prompt's tokens of one of them were not kept, so positions are not compared.");
  const [a, b] = [sequence(left), sequence(right)];
  const at = parts(a.ids, b.ids, (one, other) => one === other);
  if (at === null) return row(`All ${a.ids.length.toLocaleString("en-GB")} tokens are the same.`);
  const shown = (one: typeof a, side: number) =>
    at < one.ids.length ? (
      <a href={href(route.store, "rollout", ids[side], { tab: "tokens", token: String(at) })}>
        <code>{one.text[at] ? JSON.stringify(visible(one.text[at])) : `#${one.ids[at]}`}</code>
        <span class="soft small"> id {one.ids[at]}{one.sampled[at] ? Number.isNaN(one.logprob[at]) ? ", sampled" : `, sampled at logprob ${one.logprob[at].toFixed(3)}` : ", not sampled"}</span>
      </a>
    ) : (
      <span class="soft">ended before</span>
    );
  return <tr><td class="nowrap">Token {at.toLocaleString("en-GB")}</td><td>{shown(a, 0)}</td><td>{shown(b, 1)}</td></tr>;
}
