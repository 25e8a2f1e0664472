// The whole sequence in one scroll, drawn on a canvas: one layer at a time, exact numbers under the pointer.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { api, useData } from "../api";
import { number, signed, visible } from "../format";
import { useKeys } from "../keys";
import { go, type Route, withQuery } from "../route";
import { LAYERS, type Layout, layout, type Sequence, scaleOf, sequence, shade, values } from "../strip";
import type { Details, Strip } from "../types";
import { Empty, Failure, Spinner } from "../ui";
import { turnsOf } from "./messages";

const LINE = 24;
const GUTTER = 76;
const FONT = "13px ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";

export function Tokens({ route, data }: { route: Route; data: Details }) {
  const of = { of: route.query.get("of") ?? "", step: route.query.get("step_of") ?? "" };
  const { data: strip, error } = useData<Strip>(api(route.store, "tokens", route.id, of.of ? of : new URLSearchParams()));
  if (error) return <Failure error={error} />;
  if (!strip) return <Spinner />;
  if (!strip.ids) return <Empty title="No token ids were kept for this rollout.">{data.rollout.engine && <>The engine {data.rollout.engine} reports messages only. A vLLM or torch engine keeps tokens and logprobs.</>}</Empty>;
  if (!strip.ids.length && !strip.prompt_ids.length) return <Empty title="Nothing was generated.">{data.rollout.stop_reason}</Empty>;
  return <View route={route} data={data} strip={strip} />;
}

function View({ route, data, strip }: { route: Route; data: Details; strip: Strip }) {
  const tokens = useMemo(() => sequence(strip), [strip]);
  const usable = LAYERS.filter(([name]) => (name === "version" ? strip.spans.length > 0 : name === "mask" || values(tokens, name).some((value) => Number.isFinite(value))));
  const asked = route.query.get("layer") ?? "";
  const layer = usable.some(([name]) => name === asked) ? asked : usable[0][0];
  const scale = useMemo(() => scaleOf(tokens, layer), [tokens, layer]);
  const talk = useMemo(() => turnsOf(data), [data]);
  const cursor = startToken(route, tokens, talk);
  const choose = (at: number | null) => go(withQuery(route, { token: at === null ? null : String(at), turn: null }), true);
  const message = cursor === null ? undefined : messageAt(tokens, talk, cursor);
  const worst = useMemo(() => extreme(tokens, layer), [tokens, layer]);
  const step = (by: number) => choose(Math.max(0, Math.min(tokens.ids.length - 1, (cursor ?? -1) + by)));
  useKeys([
    { key: "ArrowRight", does: "Next token", run: () => step(1) },
    { key: "ArrowLeft", does: "Previous token", run: () => step(-1) },
    { key: "x", does: "The layer's most extreme token", run: () => worst !== null && choose(worst) },
    { key: "Enter", does: "The token's message", run: () => message && go(withQuery(route, { tab: null, turn: String(message.at) })) },
    ...usable.map(([name, label], at) => ({ key: String(at + 1), does: `Layer: ${label}`, run: () => go(withQuery(route, { layer: name }), true) })),
  ]);
  return (
    <div class="strip">
      <div class="bar tight">
        <div class="segments" role="group" aria-label="Layer">
          {usable.map(([name, label, says]) => (
            <a key={name} href={withQuery(route, { layer: name })} title={says} aria-current={name === layer ? "true" : undefined}>{label}</a>
          ))}
        </div>
        <span class="grow" />
        {strip.samples.length > 1 && (
          <select aria-label="Batch" value={`${strip.sample?.run_id} ${strip.sample?.step}`} onChange={(event) => {
            const [run, step] = event.currentTarget.value.split(" ");
            go(withQuery(route, { of: run, step_of: step }), true);
          }}>
            {strip.samples.map((one) => <option key={`${one.run_id} ${one.step}`} value={`${one.run_id} ${one.step}`}>{one.run_id}, step {one.step}</option>)}
          </select>
        )}
        {worst !== null && <button class="quiet" onClick={() => choose(worst)}>most extreme</button>}
      </div>
      <p class="soft small says">
        {LAYERS.find(([name]) => name === layer)![2]} <Scale layer={layer} scale={scale} clip={strip.clip} tokens={tokens} />.
        {!Object.keys(strip.texts).length && " The tokenizer is not on this machine, so tokens show as their ids."}
        {!strip.trainer && " No learner's logprobs: no step trained on this rollout."}
      </p>
      <Canvas tokens={tokens} layer={layer} scale={scale} clip={strip.clip} cursor={cursor} status={strip.status} choose={choose} />
      <Detail tokens={tokens} strip={strip} cursor={cursor} link={message && withQuery(route, { tab: null, turn: String(message.at) })} role={message?.message.role} />
    </div>
  );
}

/** The chosen token: that of the address, else the first of the turn that the address names. */
function startToken(route: Route, tokens: Sequence, talk: ReturnType<typeof turnsOf>): number | null {
  const token = route.query.get("token");
  if (token !== null && Number(token) < tokens.ids.length) return Number(token);
  const turn = talk[Number(route.query.get("turn") ?? -1)];
  if (!turn) return null;
  if (turn.prompt) return tokens.prompt ? 0 : null;
  const segment = tokens.segments.find((one) => one.sampled && one.number === turn.sampled);
  return segment?.start ?? null;
}

/** The message that a token belongs to: the assistant's turns are the sampled stretches, in order. */
function messageAt(tokens: Sequence, talk: ReturnType<typeof turnsOf>, at: number) {
  const segment = tokens.segments.find((one) => one.start <= at && at < one.end);
  if (!segment || segment.number < 0) return talk.find((turn) => turn.prompt);
  const own = talk.find((turn) => turn.sampled === segment.number);
  if (segment.sampled) return own;
  const before = talk.findIndex((turn) => turn.sampled === segment.number - 1);
  return talk[before + 1] ?? own;
}

function extreme(tokens: Sequence, layer: string): number | null {
  if (layer === "mask" || layer === "version" || layer === "advantage") return null;
  const list = values(tokens, layer);
  let best: number | null = null;
  const size = (at: number) => (layer === "logprob" ? -list[at] : layer === "ratio" ? Math.abs(Math.log(list[at])) : Math.abs(list[at]));
  for (let at = 0; at < list.length; at++) if (Number.isFinite(list[at]) && (best === null || size(at) > size(best))) best = at;
  return best;
}

function Scale({ layer, scale, clip, tokens }: { layer: string; scale: number; clip: [number, number] | null; tokens: Sequence }) {
  if (layer === "logprob") return <span class="nowrap">0 <i class="ramp ramp-red" aria-hidden="true" /> −{scale} and less</span>;
  if (layer === "entropy") return <span class="nowrap">0 <i class="ramp ramp-red" aria-hidden="true" /> {number(scale)}</span>;
  if (layer === "difference") return <span class="nowrap">−{number(scale)} <i class="ramp ramp-both" aria-hidden="true" /> +{number(scale)}</span>;
  if (layer === "ratio") return <span class="nowrap">{number(Math.exp(-scale))} <i class="ramp ramp-both" aria-hidden="true" /> {number(Math.exp(scale))}{clip && `; clipped outside ${number(clip[0])} to ${number(clip[1])}`}</span>;
  if (layer === "version") return <span class="nowrap">{[...new Set(tokens.version)].filter((one) => one >= 0).map((one) => `v${one}`).join(", ")}</span>;
  return null;
}

interface Colours {
  ink: string; soft: string; line: string; red: string; blue: string; orange: string; green: string; accent: string; page: string; palette: string[];
} // prettier-ignore

function colours(): Colours {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return { ink: of("ink"), soft: of("faint"), line: of("line"), red: of("t-red"), blue: of("t-blue"), orange: of("t-orange"), green: of("t-green"), accent: of("accent"), page: of("card"), palette: [0, 1, 2, 3, 4, 5].map((at) => of(`p${at}`)) };
}

interface Drawn {
  tokens: Sequence;
  layer: string;
  scale: number;
  clip: [number, number] | null;
  cursor: number | null;
}

function Canvas({ tokens, layer, scale, clip, cursor, status, choose }: Drawn & { status: string; choose: (at: number | null) => void }) {
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const overview = useRef<HTMLCanvasElement>(null);
  const tip = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  const [theme, setTheme] = useState(0);
  const gutter = width < 520 ? 14 : GUTTER;
  const placed = useMemo(() => {
    const context = document.createElement("canvas").getContext("2d")!;
    context.font = FONT;
    const character = context.measureText("m").width;
    return width ? layout(tokens, width - gutter - 8, character, (text) => context.measureText(text).width) : null;
  }, [tokens, width]);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(() => setWidth(box.current?.clientWidth ?? 0));
    watch.observe(box.current!);
    const media = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => setTheme((before) => before + 1);
    media.addEventListener("change", changed);
    const themes = new MutationObserver(changed);
    themes.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => (watch.disconnect(), media.removeEventListener("change", changed), themes.disconnect());
  }, []);
  const paint = useRef(() => {});
  paint.current = () => {
    if (!placed || !canvas.current || !box.current) return;
    const drawn = { tokens, layer, scale, clip, cursor };
    const palette = colours();
    drawLines(canvas.current, box.current, placed, drawn, gutter, palette);
    if (overview.current) drawOverview(overview.current, box.current, placed, drawn, palette);
  };
  const frame = useRef(0);
  const schedule = () => {
    cancelAnimationFrame(frame.current);
    frame.current = requestAnimationFrame(() => paint.current());
  };
  useEffect(schedule, [placed, layer, scale, clip, cursor, theme]);
  useEffect(() => {
    if (cursor === null || !placed || !box.current) return;
    const y = placed.line[cursor] * LINE;
    if (y < box.current.scrollTop + LINE || y > box.current.scrollTop + box.current.clientHeight - 3 * LINE) box.current.scrollTop = y - box.current.clientHeight / 3;
  }, [cursor, placed]);
  const hit = (event: MouseEvent): number | null => {
    if (!placed || !box.current) return null;
    const area = box.current.getBoundingClientRect();
    const line = Math.floor((event.clientY - area.top + box.current.scrollTop) / LINE);
    const x = event.clientX - area.left - gutter;
    if (line >= placed.lines.length || line < 0) return null;
    for (let at = placed.lines[line]; at < (placed.lines[line + 1] ?? tokens.ids.length); at++) if (x >= placed.x[at] && x < placed.x[at] + placed.width[at]) return at;
    return null;
  };
  const hover = (event: MouseEvent) => {
    const at = hit(event);
    if (!tip.current) return;
    tip.current.hidden = at === null;
    if (at === null) return;
    tip.current.textContent = describe(tokens, at, clip);
    const size = tip.current.getBoundingClientRect();
    tip.current.style.left = `${Math.max(4, Math.min(innerWidth - size.width - 8, event.clientX + 12))}px`;
    tip.current.style.top = `${event.clientY + 18 + size.height > innerHeight ? event.clientY - size.height - 10 : event.clientY + 18}px`;
  };
  const jump = (event: MouseEvent) => {
    const area = overview.current!.getBoundingClientRect();
    const at = Math.floor(((event.clientX - area.left) / area.width) * tokens.ids.length);
    if (placed && box.current) box.current.scrollTop = placed.line[Math.max(0, Math.min(tokens.ids.length - 1, at))] * LINE - box.current.clientHeight / 2;
  };
  return (
    <>
      <div class="strip-scroll card" ref={box} onScroll={schedule} onMouseMove={hover} onMouseLeave={() => tip.current && (tip.current.hidden = true)} onClick={(event) => choose(hit(event))} tabIndex={0} role="region" aria-label={`${tokens.ids.length} tokens; arrow keys choose one, its numbers stand below`}>
        <canvas ref={canvas} aria-hidden="true" />
        <div style={{ height: `${(placed?.lines.length ?? 0) * LINE + LINE}px` }} aria-hidden="true" />
      </div>
      <canvas class="overview" ref={overview} aria-hidden="true" onClick={jump} onMouseMove={(event) => event.buttons === 1 && jump(event)} />
      <div class="tip mono" ref={tip} hidden aria-hidden="true" />
      {status === "truncated" && <p class="soft small">The sequence ends where a limit cut it short.</p>}
    </>
  );
}

function fit(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d")!;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function drawLines(canvas: HTMLCanvasElement, box: HTMLElement, placed: Layout, drawn: Drawn, gutter: number, palette: Colours): void {
  const { tokens, layer, scale, clip, cursor } = drawn;
  const context = fit(canvas, box.clientWidth, box.clientHeight);
  canvas.style.marginBottom = `-${box.clientHeight}px`; // the canvas stays while the lines below it scroll
  context.font = FONT;
  context.textBaseline = "middle";
  const first = Math.max(0, Math.floor(box.scrollTop / LINE));
  const last = Math.min(placed.lines.length - 1, Math.ceil((box.scrollTop + box.clientHeight) / LINE));
  const starts = new Map(tokens.segments.map((one) => [one.start, one]));
  for (let line = first; line <= last; line++) {
    const y = line * LINE - box.scrollTop;
    const segment = starts.get(placed.lines[line]);
    if (segment) {
      context.fillStyle = palette.line;
      if (line) context.fillRect(0, y - 0.5, box.clientWidth, 1);
      if (gutter > 40) {
        context.fillStyle = segment.sampled ? palette.accent : palette.soft;
        context.fillText(segment.number < 0 ? "prompt" : segment.sampled ? `turn ${segment.number + 1}` : "context", 10, y + LINE / 2);
      }
    }
    for (let at = placed.lines[line]; at < (placed.lines[line + 1] ?? tokens.ids.length); at++) {
      const x = gutter + placed.x[at];
      const size = placed.width[at];
      const value = shade(tokens, layer, scale, at);
      if (Number.isFinite(value)) {
        const [colour, alpha] = fill(layer, value, palette);
        if (alpha > 0.02) {
          context.globalAlpha = alpha;
          context.fillStyle = colour;
          context.fillRect(x, y + 2, Math.max(1, size - 1), LINE - 4);
          context.globalAlpha = 1;
        }
      }
      if (layer === "ratio" && clip && Number.isFinite(tokens.ratio[at]) && (tokens.ratio[at] < clip[0] || tokens.ratio[at] > clip[1])) {
        context.strokeStyle = tokens.ratio[at] < clip[0] ? palette.orange : palette.blue;
        context.lineWidth = 1.5;
        context.strokeRect(x + 0.75, y + 2.75, size - 2.5, LINE - 5.5);
      }
      context.fillStyle = tokens.sampled[at] ? palette.ink : palette.soft;
      context.fillText(placed.shown[at], x, y + LINE / 2 + 0.5);
      if (at === cursor) {
        context.strokeStyle = palette.accent;
        context.lineWidth = 2;
        context.strokeRect(x - 1, y + 1, size + 1, LINE - 2);
      }
    }
  }
}

function fill(layer: string, value: number, palette: Colours): [string, number] {
  if (layer === "logprob" || layer === "entropy") return [palette.red, 0.75 * value];
  if (layer === "mask") return [palette.accent, value ? 0.22 : 0];
  if (layer === "version") return [palette.palette[value % palette.palette.length], 0.35];
  if (layer === "advantage") return [value > 0 ? palette.green : palette.red, 0.15 + 0.45 * Math.abs(value)];
  return [value > 0 ? palette.blue : palette.orange, 0.75 * Math.abs(value)];
}

/** The layer over the whole sequence: the most extreme value under each pixel, and the part that is on the screen. */
function drawOverview(canvas: HTMLCanvasElement, box: HTMLElement, placed: Layout, drawn: Drawn, palette: Colours): void {
  const { tokens, layer, scale, cursor } = drawn;
  const width = canvas.parentElement!.clientWidth;
  const height = 56;
  const context = fit(canvas, width, height);
  const n = tokens.ids.length;
  const oneSided = layer === "logprob" || layer === "entropy" || layer === "mask" || layer === "version";
  const base = oneSided ? height - 4 : height / 2;
  const room = oneSided ? height - 8 : height / 2 - 4;
  const versions = Math.max(1, ...tokens.version);
  const lines = [Math.floor(box.scrollTop / LINE), Math.min(placed.lines.length - 1, Math.ceil((box.scrollTop + box.clientHeight) / LINE))];
  const from = (placed.lines[lines[0]] ?? 0) / n;
  const to = (placed.lines[lines[1] + 1] ?? n) / n;
  context.fillStyle = palette.accent;
  context.globalAlpha = 0.12;
  context.fillRect(from * width, 0, Math.max(3, (to - from) * width), height);
  context.globalAlpha = 1;
  const columns = Math.min(width, n);
  for (let column = 0; column < columns; column++) {
    const [start, end] = [Math.floor((column / columns) * n), Math.max(Math.floor((column / columns) * n) + 1, Math.floor(((column + 1) / columns) * n))];
    let best = NaN;
    for (let at = start; at < end; at++) {
      const value = shade(tokens, layer, scale, at);
      if (Number.isFinite(value) && !(Math.abs(value) <= Math.abs(best))) best = value;
    }
    if (!Number.isFinite(best) || best === 0) continue;
    const size = layer === "version" ? ((best + 1) / (versions + 1)) * room : Math.abs(best) * room;
    context.fillStyle = fill(layer, best, palette)[0];
    const x = (column / columns) * width;
    context.fillRect(x, oneSided || best > 0 ? base - size : base, Math.max(1, width / columns - (width / columns > 3 ? 1 : 0)), Math.max(1, size));
  }
  context.fillStyle = palette.line;
  context.fillRect(0, base, width, 1);
  if (cursor !== null) {
    context.fillStyle = palette.accent;
    context.fillRect((cursor / n) * width, 0, 2, height);
  }
}

function describe(tokens: Sequence, at: number, clip: [number, number] | null): string {
  const lines = [`${tokens.text[at] ? `${JSON.stringify(visible(tokens.text[at]))}  ` : ""}id ${tokens.ids[at]}, position ${at}`];
  if (!tokens.sampled[at]) return [...lines, at < tokens.prompt ? "prompt; not trained on" : "not sampled; not trained on"].join("\n");
  const engine = tokens.logprob[at];
  if (Number.isFinite(engine)) lines.push(`engine ${engine.toFixed(4)}  (${(100 * Math.exp(engine)).toFixed(1)} %)`);
  if (Number.isFinite(tokens.trainer[at])) lines.push(`learner ${tokens.trainer[at].toFixed(4)}, difference ${signed(tokens.difference[at], 4)}`, `ratio ${tokens.ratio[at].toFixed(4)}${bound(tokens.ratio[at], clip)}`);
  if (Number.isFinite(tokens.entropy[at])) lines.push(`entropy ${tokens.entropy[at].toFixed(4)}`);
  if (Number.isFinite(tokens.advantage[at])) lines.push(`advantage ${signed(tokens.advantage[at], 3)}`);
  if (tokens.version[at] >= 0) lines.push(`policy version ${tokens.version[at]}`);
  return lines.join("\n");
}

function bound(ratio: number, clip: [number, number] | null): string {
  if (!clip) return "";
  return ratio < clip[0] ? `, below the bound ${number(clip[0])}` : ratio > clip[1] ? `, above the bound ${number(clip[1])}` : "";
}

function Detail({ tokens, strip, cursor, link, role }: { tokens: Sequence; strip: Strip; cursor: number | null; link?: string; role?: string }) {
  const counted = `${tokens.ids.length.toLocaleString("en-GB")} tokens, ${tokens.sampled.reduce((sum, one) => sum + one, 0).toLocaleString("en-GB")} sampled${tokens.prompt ? `, ${tokens.prompt.toLocaleString("en-GB")} of the prompt` : ""}`;
  return (
    <div class="token-detail card" role="status" aria-live="polite">
      {cursor === null ? <span class="soft">{counted}. Choose a token to keep its numbers here.</span> : <pre class="mono">{describe(tokens, cursor, strip.clip)}</pre>}
      {cursor !== null && link && <a href={link}>its message{role ? ` (${role})` : ""} →</a>}
    </div>
  );
}
