// Two rollouts side by side: turns aligned, equal stretches folded, the first difference marked.
import { api, useData } from "../api";
import { number, parse, short, visible } from "../format";
import { useKeys } from "../keys";
import type { PageProps } from "../main";
import { go, href } from "../route";
import type { Details, Message } from "../types";
import { Chip, Empty, Failure, Spinner, Status } from "../ui";
import type { OneVersion } from "./datasets";
import { Parting } from "./parting";
import { copyLink } from "./rollouts";

interface Pair {
  left?: Message;
  right?: Message;
  same: boolean;
}

export function Diff({ route }: PageProps) {
  const other = route.query.get("with") ?? "";
  const left = useData<Details>(api(route.store, "rollout", route.id));
  const right = useData<Details>(other ? api(route.store, "rollout", other) : null);
  const label = route.query.get("pair") ?? "";
  const row = Number(route.query.get("row") ?? 0);
  // The neighbours of a pair of a dataset: the rows before and after it.
  const near = useData<OneVersion>(label ? api(route.store, "dataset", label, { offset: String(Math.max(0, row - 1)), limit: "3" }) : null).data;
  const pairAt = (number: number) => {
    const found = near?.rows?.find((one) => one.row === number);
    return found?.chosen && found.rejected ? href(route.store, "diff", found.chosen.rollout_id, { with: found.rejected.rollout_id, pair: label, row: String(number) }) : undefined;
  };
  const toPair = (number: number) => pairAt(number) && go(pairAt(number)!);
  useKeys([
    ...(label ? [{ key: "L", does: "Next pair of the dataset", run: () => toPair(row + 1) }, { key: "H", does: "Previous pair of the dataset", run: () => toPair(row - 1) }] : []),
    { key: "y", does: "Copy a link to this view", run: () => void copyLink() },
    { key: "s", does: "Swap the sides", run: () => other && go(href(route.store, "diff", other, { with: route.id, pair: label, row: label && String(row) })) },
  ]);
  const error = left.error ?? right.error;
  if (error) return <Failure error={error} />;
  if (!other) return <Empty title="A difference is between two rollouts.">Mark one with m, open another and press d.</Empty>;
  if (!left.data || !right.data) return <Spinner />;
  const talks: [Message[], Message[]] = [talk(left.data), talk(right.data)];
  const pairs = aligned(...talks);
  const roles: [string, string] = label ? roleOf(near, row, route.id) : ["", ""];
  const first = pairs.findIndex((pair) => !pair.same);
  const stretches = folded(pairs);
  return (
    <div class="diff">
      <div class="bar">
        <h1>Difference</h1>
        <span class="soft">{first < 0 ? "The messages are the same." : `They part at message ${first + 1}${left.data.rollout.task_id === right.data.rollout.task_id ? " of the same task" : "; their tasks differ"}.`}</span>
        <span class="grow" />
        {label && (
          <span class="steps small">
            <a class="quiet" aria-disabled={!pairAt(row - 1)} aria-label="Previous pair" href={pairAt(row - 1)}>‹</a>
            <a href={href(route.store, "dataset", label)}>pair {row} of {label}</a>
            <a class="quiet" aria-disabled={!pairAt(row + 1)} aria-label="Next pair" href={pairAt(row + 1)}>›</a>
          </span>
        )}
      </div>
      <div class="sides">
        <Head route={route} data={left.data} role={roles[0]} />
        <Head route={route} data={right.data} role={roles[1]} />
      </div>
      <Parting route={route} sides={[left.data, right.data]} talks={talks} />
      {stretches.map((stretch, at) =>
        stretch[0].same && stretch.length > 1 ? (
          <details key={at} class="message fold">
            <summary>
              <b>{stretch.length} equal messages</b>
            </summary>
            {stretch.map((pair, place) => (
              <Side key={place} message={pair.left} />
            ))}
          </details>
        ) : (
          stretch.map((pair, place) => (
            <div key={`${at}-${place}`} class={`sides ${pair.same ? "" : pairs.indexOf(pair) === first ? "first-difference" : "difference"}`}>
              <Side message={pair.left} other={pair.same ? undefined : pair.right} />
              <Side message={pair.right} other={pair.same ? undefined : pair.left} />
            </div>
          ))
        ),
      )}
    </div>
  );
}

/** Which side is the chosen one of the pair, by what the dataset holds and not by the address. */
function roleOf(near: OneVersion | undefined, row: number, left: string): [string, string] {
  const found = near?.rows?.find((one) => one.row === row);
  if (found?.chosen?.rollout_id === left) return ["chosen", "rejected"];
  return found?.rejected?.rollout_id === left ? ["rejected", "chosen"] : ["", ""];
}

function Head({ route, data, role }: { route: PageProps["route"]; data: Details; role: string }) {
  const { rollout } = data;
  return (
    <div class="chips">
      {role && <span class={`chip ${role === "chosen" ? "good-chip" : "bad-chip"}`}>{role}</span>}
      <a class="mono" href={href(route.store, "rollout", rollout.rollout_id)}>{short(rollout.rollout_id)}</a>
      <Status value={rollout.status} />
      <Chip label="reward" tone={rollout.passed === null ? "" : rollout.passed ? "good-chip" : "bad-chip"}>{number(rollout.reward, 2)}</Chip>
      <Chip label="run">{rollout.run_id}</Chip>
      {rollout.step !== null && <Chip label="step">{rollout.step}</Chip>}
    </div>
  );
}

const talk = (data: Details): Message[] => [...data.prompt.messages, ...(data.rollout.messages ?? [])];

/** What two messages must share to be the same: not the ids of calls, which every rollout makes anew. */
function key(message: Message): string {
  return JSON.stringify([message.role, message.text, message.reasoning, message.parts, (message.tool_calls ?? []).map((call) => [call.name, call.arguments])]);
}

const LONGEST = 600;

/** The longest common subsequence of the messages; between its members, differing messages stand side by side in order. */
function aligned(left: Message[], right: Message[]): Pair[] {
  const [a, b] = [left.slice(0, LONGEST), right.slice(0, LONGEST)];
  const [ka, kb] = [a.map(key), b.map(key)];
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) length[i][j] = ka[i] === kb[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const pairs: Pair[] = [];
  let gap: [Message[], Message[]] = [[], []];
  const close = () => {
    for (let at = 0; at < Math.max(gap[0].length, gap[1].length); at++) pairs.push({ left: gap[0][at], right: gap[1][at], same: false });
    gap = [[], []];
  };
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && ka[i] === kb[j]) {
      close();
      pairs.push({ left: a[i++], right: b[j++], same: true });
    } else if (j >= b.length || (i < a.length && length[i + 1][j] >= length[i][j + 1])) gap[0].push(a[i++]);
    else gap[1].push(b[j++]);
  }
  close();
  return pairs;
}

/** Neighbours that are alike, together. */
function folded(pairs: Pair[]): Pair[][] {
  const found: Pair[][] = [];
  for (const pair of pairs) {
    if (found.length && found.at(-1)![0].same === pair.same) found.at(-1)!.push(pair);
    else found.push([pair]);
  }
  return found;
}

function text(message: Message | undefined): string {
  if (!message) return "";
  const calls = (message.tool_calls ?? []).map((call) => `${call.name}(${JSON.stringify(parse(call.arguments) ?? call.arguments, null, 1)})`);
  return visible([message.reasoning, message.text, message.parts, ...calls].filter(Boolean).join("\n"));
}

function Side({ message, other }: { message?: Message; other?: Message }) {
  if (!message) return <section class="message missing soft">no message here</section>;
  const own = text(message);
  const theirs = other === undefined ? own : text(other);
  let start = 0;
  while (start < own.length && own[start] === theirs[start]) start++;
  let end = 0;
  while (end < own.length - start && end < theirs.length - start && own[own.length - 1 - end] === theirs[theirs.length - 1 - end]) end++;
  return (
    <section class={`message role-${/^(user|assistant|tool)$/.test(message.role) ? message.role : "other"}`}>
      <header>
        <b>{message.role}</b>
      </header>
      <pre class="plain">
        {own.slice(0, start)}
        {start < own.length - end && <mark>{own.slice(start, own.length - end)}</mark>}
        {own.slice(own.length - end)}
      </pre>
    </section>
  );
}
