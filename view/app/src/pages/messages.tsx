// The conversation: an outline, Markdown, and a card for each tool call beside what was expected of it.
import { useState } from "preact/hooks";
import { Code } from "../code";
import { parse, visible } from "../format";
import { Json } from "../json";
import { Markdown } from "../markdown";
import { type Route, withQuery } from "../route";
import type { Call, Details, Message } from "../types";
import { Empty } from "../ui";
import { type Labelling, Labels } from "./labels";
import { Facts } from "./rollout";

const LONG = 6_000;

export interface Turn {
  message: Message;
  /** Position among all messages, the prompt's first. */
  at: number;
  prompt: boolean;
  /** Which of the assistant's turns it is, from 0; null for others. */
  sampled: number | null;
}

export function turnsOf(data: Details): Turn[] {
  let sampled = 0;
  const asked = data.prompt.messages.map((message) => ({ message, prompt: true }));
  const said = (data.rollout.messages ?? []).map((message) => ({ message, prompt: false }));
  return [...asked, ...said].map((one, at) => ({ ...one, at, sampled: !one.prompt && one.message.role === "assistant" ? sampled++ : null }));
}

interface Labelled {
  labelling: Labelling;
  /** The message whose form is open, null for the rollout's, undefined for none. */
  labelled: number | null | undefined;
  onLabel: (place: number | null | undefined) => void;
}

export function Messages({ route, data, ...marks }: { route: Route; data: Details } & Labelled) {
  const turns = turnsOf(data);
  const expected = expectedCalls(data);
  const answers = new Map<string, Turn>();
  for (const turn of turns) if (turn.message.role === "tool" && turn.message.tool_call_id) answers.set(turn.message.tool_call_id, turn);
  const shownInCards = new Set<number>();
  for (const turn of turns) for (const call of turn.message.tool_calls ?? []) if (call.id && answers.has(call.id)) shownInCards.add(answers.get(call.id)!.at);
  const used = new Set<number>();
  return (
    <div class="talk">
      <nav class="outline" aria-label="Outline">
        <ol>
          {turns.map((turn) => !shownInCards.has(turn.at) && (
            <li key={turn.at}>
              <a class={`role-${role(turn)}`} href={withQuery(route, { turn: String(turn.at) })} aria-current={route.query.get("turn") === String(turn.at) ? "true" : undefined}>
                <b>{turn.message.role}</b> <span class="cut">{gist(turn.message)}</span>
              </a>
            </li>
          ))}
        </ol>
      </nav>
      <div class="messages">
        {!turns.length && <Empty title="No message was kept.">{(data.rollout.gaps ?? []).join(", ")}</Empty>}
        {data.prompt.tools.length > 0 && <ToolList tools={data.prompt.tools} />}
        {turns.map((turn) => !shownInCards.has(turn.at) && (
          <Item key={turn.at} turn={turn} route={route} hasTokens={data.rollout.n_tokens !== null} at={turn.prompt ? null : turn.at - data.prompt.messages.length} {...marks}>
            {(turn.message.tool_calls ?? []).map((call, at) => (
              <CallCard key={at} call={call} answer={call.id ? answers.get(call.id) : undefined} expected={turn.prompt ? undefined : match(call, expected, used)} judged={expected.length > 0 && !turn.prompt} />
            ))}
          </Item>
        ))}
        {expected.some((_, at) => !used.has(at)) && turns.length > 0 && (
          <section class="message missing">
            <header><b>expected, never called</b></header>
            {expected.map((call, at) => !used.has(at) && <Signature key={at} call={call} />)}
          </section>
        )}
        {!expected.length && data.task?.ground_truth !== null && data.task?.ground_truth !== undefined && (
          <details class="message fold">
            <summary><b>ground truth</b></summary>
            <Json value={data.task.ground_truth} />
          </details>
        )}
      </div>
      <aside class="aside" aria-label="Facts">
        <Facts data={data} />
      </aside>
    </div>
  );
}

const role = (turn: Turn) => (/^(system|developer|user|assistant|tool)$/.test(turn.message.role) ? turn.message.role : "other");

function gist(message: Message): string {
  const calls = (message.tool_calls ?? []).map((call) => call.name).join(", ");
  return visible((calls || message.text || message.reasoning || "").slice(0, 60));
}

/** `at` is the position after the prompt, which labels refer to; null for a message of the prompt. */
function Item({ turn, route, hasTokens, at, labelling, labelled, onLabel, children }: { turn: Turn; route: Route; hasTokens: boolean; at: number | null; children: preact.ComponentChildren } & Labelled) {
  const { message } = turn;
  const kind = role(turn);
  const body = (
    <>
      {message.reasoning && (
        <details class="reasoning">
          <summary>Reasoning <span class="soft">{message.reasoning.length.toLocaleString("en-GB")} characters</span></summary>
          <Text text={message.reasoning} markdown />
        </details>
      )}
      {message.text && (kind === "tool" ? <Result text={message.text} /> : <Text text={message.text} markdown />)}
      {message.parts && <Result text={message.parts} />}
      {children}
      {!message.text && !message.parts && !message.tool_calls?.length && !message.reasoning && <p class="soft">empty</p>}
    </>
  );
  const label = (
    <>
      <b>{message.role}</b> <span class="soft">{turn.prompt ? "prompt" : turn.sampled === null ? "" : `turn ${turn.sampled + 1}`}</span>
    </>
  );
  if (kind === "system" || kind === "developer")
    return (
      <details class={`message fold role-${kind}`} id={`turn-${turn.at}`}>
        <summary>{label} <span class="soft cut">{gist(message)}</span></summary>
        {body}
      </details>
    );
  return (
    <section class={`message role-${kind} ${turn.prompt ? "in-prompt" : ""}`} id={`turn-${turn.at}`} aria-label={`${message.role} ${turn.at + 1}`}>
      <header>
        {label}
        <span class="grow" />
        {at !== null && <Labels of={labelling} message={at} open={labelled === at} onOpen={(open) => onLabel(open ? at : undefined)} />}
        {hasTokens && turn.sampled !== null && <a class="small" href={withQuery(route, { tab: "tokens", turn: String(turn.at), token: null })}>tokens</a>}
      </header>
      {body}
    </section>
  );
}

function Text({ text, markdown }: { text: string; markdown?: boolean }) {
  const [all, setAll] = useState(text.length <= LONG);
  const shown = all ? text : text.slice(0, LONG);
  return (
    <>
      {markdown && text.length < 200_000 ? <Markdown text={shown} /> : <pre class="plain">{visible(shown)}</pre>}
      {!all && <button class="link" onClick={() => setAll(true)}>{(text.length - LONG).toLocaleString("en-GB")} more characters</button>}
    </>
  );
}

/** A tool's answer: JSON as a tree, all else as it is. */
function Result({ text }: { text: string }) {
  const value = /^\s*[[{]/.test(text) && text.length < 200_000 ? parse(text) : undefined;
  return value !== undefined && value !== null && typeof value === "object" ? <Json value={value} open={3} /> : text.length > LONG ? <Text text={text} /> : <pre class="plain">{visible(text)}</pre>;
}

function failed(text: string): boolean {
  if (/^\s*(error|exception|traceback|invalid|unknown tool)\b/i.test(text)) return true;
  const value = /^\s*\{/.test(text) ? (parse(text) as Record<string, unknown> | undefined) : undefined;
  return Boolean(value && typeof value === "object" && value.error);
}

interface Expected {
  name: string;
  arguments: unknown;
}

/** The calls of the ground truth, where it is a list of calls. */
function expectedCalls(data: Details): Expected[] {
  const truth = data.task?.ground_truth;
  if (!Array.isArray(truth)) return [];
  const calls = truth.filter((one) => one && typeof one === "object" && typeof one.name === "string" && "arguments" in one);
  return calls.length === truth.length ? calls.map((one) => ({ name: one.name, arguments: typeof one.arguments === "string" ? (parse(one.arguments) ?? one.arguments) : one.arguments })) : [];
}

interface Matched {
  call: Expected;
  same: boolean;
}

/** The expected call that this one answers: an equal one, else the next of the same name. */
function match(call: Call, expected: Expected[], used: Set<number>): Matched | undefined {
  const given = canonical(parse(call.arguments) ?? call.arguments);
  const free = expected.map((one, at) => [one, at] as const).filter(([one, at]) => !used.has(at) && one.name === call.name);
  const equal = free.find(([one]) => canonical(one.arguments) === given);
  const found = equal ?? free[0];
  if (!found) return undefined;
  used.add(found[1]);
  return { call: found[0], same: equal !== undefined };
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner) => (inner && typeof inner === "object" && !Array.isArray(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner));
}

function CallCard({ call, answer, expected, judged }: { call: Call; answer?: Turn; expected?: Matched; judged: boolean }) {
  const given = parse(call.arguments);
  const text = answer?.message.text ?? "";
  const bad = answer !== undefined && failed(text);
  return (
    <div class={`call ${bad ? "call-bad" : ""}`}>
      <header>
        <code class="name">{visible(call.name)}</code>
        {judged && (expected ? <span class={expected.same ? "tag good-chip" : "tag bad-chip"}>{expected.same ? "as expected" : "other arguments than expected"}</span> : <span class="tag">not in the ground truth</span>)}
        {bad && <span class="tag bad-chip">error</span>}
      </header>
      <div class={expected && !expected.same ? "pair" : ""}>
        <div>
          {expected && !expected.same && <div class="soft small">called</div>}
          {given !== null && typeof given === "object" ? <Arguments value={given as Record<string, unknown>} other={expected && !expected.same ? expected.call.arguments : undefined} /> : <Code text={call.arguments} />}
        </div>
        {expected && !expected.same && (
          <div>
            <div class="soft small">expected</div>
            <Arguments value={expected.call.arguments as Record<string, unknown>} other={given} />
          </div>
        )}
      </div>
      {answer ? (
        <details class="answer" open={text.length < 1200}>
          <summary>answer</summary>
          <Result text={text || answer.message.parts || "(empty)"} />
        </details>
      ) : (
        <div class="soft small">no answer kept</div>
      )}
    </div>
  );
}

function Arguments({ value, other }: { value: Record<string, unknown>; other?: unknown }) {
  const compared = other && typeof other === "object" ? (other as Record<string, unknown>) : undefined;
  const entries = Object.entries(value ?? {});
  if (!entries.length) return <p class="soft">no arguments</p>;
  return (
    <dl class="json">
      {entries.map(([name, inner]) => (
        <div key={name} class={compared && canonical(compared[name]) !== canonical(inner) ? "differs" : ""}>
          <dt>{visible(name)}</dt>
          <dd><Json value={inner} depth={1} open={3} /></dd>
        </div>
      ))}
    </dl>
  );
}

function Signature({ call }: { call: Expected }) {
  return (
    <div class="call">
      <header><code class="name">{visible(call.name)}</code></header>
      <Arguments value={call.arguments as Record<string, unknown>} />
    </div>
  );
}

function ToolList({ tools }: { tools: unknown[] }) {
  const named = tools.map((tool) => (tool as { function?: Record<string, unknown> }).function ?? (tool as Record<string, unknown>));
  return (
    <details class="message fold">
      <summary><b>tools</b> <span class="soft cut">{tools.length}: {visible(named.map((tool) => String(tool.name ?? "?")).join(", "))}</span></summary>
      <ul class="toollist">
        {named.map((tool, at) => (
          <li key={at}>
            <details>
              <summary><code>{visible(String(tool.name ?? "?"))}</code> <span class="soft">{visible(String(tool.description ?? ""))}</span></summary>
              <Json value={tool.parameters ?? tool} open={4} />
            </details>
          </li>
        ))}
      </ul>
    </details>
  );
}
