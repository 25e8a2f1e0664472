// What the token strip draws: the sequence, its layers, and where each token stands. No DOM but a canvas to measure text on.
import { visible } from "./format";
import type { Strip } from "./types";

export interface Sequence {
  /** Token ids, the prompt's first. */
  ids: number[];
  text: string[];
  /** How many of them are the prompt's. */
  prompt: number;
  sampled: Uint8Array;
  /** NaN where it is not known, as for all of these. */
  logprob: Float32Array;
  trainer: Float32Array;
  difference: Float32Array;
  ratio: Float32Array;
  advantage: Float32Array;
  entropy: Float32Array;
  version: Int32Array;
  /** First token of each stretch that the policy sampled, and of each between: the turns. */
  segments: { start: number; end: number; sampled: boolean; number: number }[];
}

export const LAYERS: [string, string, string][] = [
  ["logprob", "Logprob", "Log-probability of the token when it was sampled: the redder, the less likely:"],
  ["difference", "Learner − engine", "The learner's log-probability before the update, less the engine's: blue where the learner finds the token likelier, orange where less likely:"],
  ["ratio", "Ratio", "exp(learner − engine); outlined where it is outside the loss's clip bounds:"],
  ["entropy", "Entropy", "Entropy of the learner's distribution at the token, in nats: the redder, the less certain:"],
  ["advantage", "Advantage", "The advantage that the batch gave to the rollout's sampled tokens"],
  ["mask", "Loss mask", "Tokens that the policy sampled; all else is not trained on"],
  ["version", "Policy version", "How many optimizer steps made the weights that sampled the token:"],
]; // prettier-ignore

export function sequence(strip: Strip): Sequence {
  const own = strip.ids ?? [];
  const ids = [...strip.prompt_ids, ...own];
  const prompt = strip.prompt_ids.length;
  const n = ids.length;
  const unknown = () => new Float32Array(n).fill(NaN);
  const made: Sequence = { ids, prompt, text: ids.map((id) => strip.texts[id] ?? ""), sampled: new Uint8Array(n), logprob: unknown(), trainer: unknown(), difference: unknown(), ratio: unknown(), advantage: unknown(), entropy: unknown(), version: new Int32Array(n).fill(-1), segments: [] };
  let place = 0;
  let span = 0;
  for (let at = prompt; at < n; at++) {
    while (span + 1 < strip.spans.length && strip.spans[span + 1].start <= at - prompt) span++;
    if (strip.spans.length) made.version[at] = strip.spans[span].version;
    if (!strip.mask?.[at - prompt]) continue;
    made.sampled[at] = 1;
    const engine = strip.logprobs?.[place] ?? NaN;
    const learner = strip.trainer?.[place] ?? NaN;
    made.logprob[at] = engine;
    made.trainer[at] = learner;
    made.difference[at] = learner - engine;
    made.ratio[at] = Math.exp(learner - engine);
    made.entropy[at] = strip.entropies?.[place] ?? NaN;
    made.advantage[at] = strip.sample?.advantage ?? NaN;
    place++;
  }
  if (prompt) made.segments.push({ start: 0, end: prompt, sampled: false, number: -1 });
  let turn = 0;
  for (let at = prompt; at < n; ) {
    let end = at + 1;
    while (end < n && made.sampled[end] === made.sampled[at]) end++;
    made.segments.push({ start: at, end, sampled: made.sampled[at] === 1, number: made.sampled[at] ? turn++ : turn });
    at = end;
  }
  return made;
}

export interface Layout {
  x: Float32Array;
  width: Float32Array;
  /** Line of each token. */
  line: Uint32Array;
  /** First token of each line. */
  lines: number[];
  shown: string[];
}

const LONGEST = 48;

/** Places the tokens on lines of a width; a token that ends in a line break ends its line, and so does the end of a segment. */
export function layout(sequence: Sequence, width: number, character: number, wide: (text: string) => number): Layout {
  const n = sequence.ids.length;
  const made: Layout = { x: new Float32Array(n), width: new Float32Array(n), line: new Uint32Array(n), lines: [], shown: new Array(n) };
  const starts = new Set(sequence.segments.map((one) => one.start));
  let x = 0;
  let fresh = true;
  for (let at = 0; at < n; at++) {
    const text = sequence.text[at] || `#${sequence.ids[at]}`;
    const shown = glyphs(text);
    const size = (/^[\x20-\x7e·↵→]*$/.test(shown) ? shown.length * character : wide(shown)) + (sequence.text[at] ? 0 : character);
    if (!fresh && (starts.has(at) || x + size > width)) fresh = true;
    if (fresh) {
      made.lines.push(at);
      x = 0;
      fresh = false;
    }
    made.x[at] = x;
    made.width[at] = size;
    made.line[at] = made.lines.length - 1;
    made.shown[at] = shown;
    x += size;
    if (text.endsWith("\n")) fresh = true;
  }
  return made;
}

function glyphs(text: string): string {
  const shown = visible(text).replaceAll("\n", "↵").replaceAll("\t", "→").replace(/^ | $/g, "·").replaceAll("\u00a0", "·");
  return shown.length > LONGEST ? `${shown.slice(0, LONGEST)}…` : shown;
}

/** The value that a layer colours by: where 0 to 1 (or −1 to 1) is the whole of its scale, and NaN is nothing. */
export function shade(sequence: Sequence, layer: string, scale: number, at: number): number {
  switch (layer) {
    case "logprob":
      return Math.min(1, -sequence.logprob[at] / scale);
    case "difference":
      return clamp(sequence.difference[at] / scale);
    case "ratio":
      return clamp(Math.log(sequence.ratio[at]) / scale);
    case "entropy":
      return Math.min(1, sequence.entropy[at] / scale);
    case "advantage":
      return clamp(sequence.advantage[at] / scale);
    case "mask":
      return sequence.sampled[at];
    default:
      return sequence.version[at] < 0 || !sequence.sampled[at] ? NaN : sequence.version[at];
  }
}

export function values(sequence: Sequence, layer: string): Float32Array | Uint8Array | Int32Array {
  return layer === "mask" ? sequence.sampled : layer === "version" ? sequence.version : sequence[layer as "logprob"];
}

/** How large a value must be for the full colour: the 99th percentile of the known ones, but no less than what a layer's noise is. */
export function scaleOf(sequence: Sequence, layer: string): number {
  if (layer === "advantage") return Math.max(1, ...finite(sequence.advantage).map(Math.abs));
  if (layer === "logprob") return 4;
  if (layer === "entropy") return Math.max(0.5, ...finite(sequence.entropy));
  if (layer !== "difference" && layer !== "ratio") return 1;
  const sizes = finite(sequence.difference).map(Math.abs).sort((a, b) => a - b);
  return Math.max(0.02, sizes[Math.floor(sizes.length * 0.99)] ?? 0);
}

function finite(list: Float32Array): number[] {
  const found: number[] = [];
  for (const value of list) if (Number.isFinite(value)) found.push(value);
  return found.length > 4000 ? found.filter((_, at) => at % Math.ceil(found.length / 4000) === 0) : found;
}

const clamp = (value: number) => Math.max(-1, Math.min(1, value));
