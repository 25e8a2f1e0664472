// Curves over steps with uPlot, and a scatter of rollouts on a canvas; dragging over either chooses a range.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { number } from "./format";

export interface Curve {
  label: string;
  steps: number[];
  values: (number | null)[];
}

/** Exponential moving average whose start is not pulled towards zero. */
export function smoothed(values: (number | null)[], weight: number): (number | null)[] {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null || weight === 0) return value;
    sum = sum * weight + value * (1 - weight);
    total = total * weight + (1 - weight);
    return sum / total;
  });
}

export function colour(at: number): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--p${at % 6}`).trim();
}

function style(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Redraws when the colours change. */
function useTheme(): number {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const changed = () => setTheme((before) => before + 1);
    const media = matchMedia("(prefers-color-scheme: dark)");
    const watch = new MutationObserver(changed);
    media.addEventListener("change", changed);
    watch.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => (media.removeEventListener("change", changed), watch.disconnect());
  }, []);
  return theme;
}

function useWidth(box: { current: HTMLElement | null }): number {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(() => setWidth(box.current?.clientWidth ?? 0));
    watch.observe(box.current!);
    return () => watch.disconnect();
  }, []);
  return width;
}

export function Chart({ title, curves, smooth, onRange }: { title: string; curves: Curve[]; smooth: number; onRange: (low: number, high: number) => void }) {
  const box = useRef<HTMLDivElement>(null);
  const width = useWidth(box);
  const theme = useTheme();
  useEffect(() => {
    if (!width || !curves.length) return;
    const steps = [...new Set(curves.flatMap((one) => one.steps))].sort((a, b) => a - b);
    const places = new Map(steps.map((step, at) => [step, at]));
    const lines = curves.map((one) => {
      const line: (number | null | undefined)[] = new Array(steps.length).fill(undefined);
      smoothed(one.values, smooth).forEach((value, at) => (line[places.get(one.steps[at])!] = value));
      return line;
    });
    const axis = { stroke: style("soft"), grid: { stroke: style("line"), width: 1 }, ticks: { stroke: style("line"), width: 1 }, font: "11px system-ui, sans-serif" };
    const plot = new uPlot(
      {
        width,
        height: 180,
        legend: { show: false },
        scales: { x: { time: false } },
        cursor: { drag: { x: true, y: false, setScale: false } },
        axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, { ...axis, size: 68, values: (_, ticks) => ticks.map((tick) => number(tick, 4)) }],
        series: [{}, ...curves.map((one, at) => ({ label: one.label, stroke: colour(at), width: 1.75, spanGaps: true, points: { show: steps.length < 40, size: 5, fill: colour(at) } }))],
        hooks: {
          setSelect: [
            (self) => {
              if (self.select.width > 4) onRange(Math.round(self.posToVal(self.select.left, "x")), Math.round(self.posToVal(self.select.left + self.select.width, "x")));
            },
          ],
        },
      },
      [steps, ...lines] as uPlot.AlignedData,
      box.current!,
    );
    return () => plot.destroy();
  }, [curves, smooth, width, theme]);
  const last = curves.map((one) => `${curves.length > 1 ? `${one.label} ` : ""}${number(one.values.findLast((value) => value !== null), 4)}`).join(", ");
  return (
    <figure class="chart">
      <figcaption>
        <b>{title}</b> <span class="soft small">{last}</span>
      </figcaption>
      <div ref={box} role="img" aria-label={`${title} by step; last ${last}`} />
    </figure>
  );
}

export interface Points {
  x: number[];
  y: (number | null)[];
  kind: string[];
  id: string[];
}

const ROOM = { left: 44, right: 12, top: 8, bottom: 24 };

export function Scatter({ points, kinds, range, onPoint, onBox }: { points: Points; kinds: string[]; range: [number, number] | null; onPoint: (id: string) => void; onBox: (x: [number, number], y: [number, number]) => void }) {
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const drag = useRef<{ x: number; y: number } | null>(null);
  const width = useWidth(box);
  const theme = useTheme();
  const height = 240;
  const known = points.y.filter((value): value is number => value !== null);
  const ends = { x: [Math.min(...points.x) - 0.5, Math.max(...points.x) + 0.5], y: [Math.min(0, ...known), Math.max(1, ...known)] };
  const pad = (ends.y[1] - ends.y[0]) * 0.06;
  const px = (x: number) => ROOM.left + ((x - ends.x[0]) / (ends.x[1] - ends.x[0])) * (width - ROOM.left - ROOM.right);
  const py = (y: number) => height - ROOM.bottom - ((y - ends.y[0] + pad) / (ends.y[1] - ends.y[0] + 2 * pad)) * (height - ROOM.top - ROOM.bottom);
  const unx = (x: number) => ends.x[0] + ((x - ROOM.left) / (width - ROOM.left - ROOM.right)) * (ends.x[1] - ends.x[0]);
  const uny = (y: number) => ends.y[0] - pad + ((height - ROOM.bottom - y) / (height - ROOM.top - ROOM.bottom)) * (ends.y[1] - ends.y[0] + 2 * pad);
  // The same shift for a point at every draw, so that equal rewards of a step do not hide each other.
  const shift = (at: number) => ((((at * 2654435761) >>> 0) / 4294967296 - 0.5) * 0.7 * (width - ROOM.left - ROOM.right)) / (ends.x[1] - ends.x[0]);
  const draw = (chosen?: { x: number; y: number; toX: number; toY: number }) => {
    if (!canvas.current || !width) return;
    const ratio = devicePixelRatio || 1;
    canvas.current.width = width * ratio;
    canvas.current.height = height * ratio;
    const context = canvas.current.getContext("2d")!;
    context.scale(ratio, ratio);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = style("soft");
    context.strokeStyle = style("line");
    for (const tick of [ends.y[0], (ends.y[0] + ends.y[1]) / 2, ends.y[1]]) {
      context.beginPath();
      context.moveTo(ROOM.left, py(tick));
      context.lineTo(width - ROOM.right, py(tick));
      context.stroke();
      context.textAlign = "right";
      context.fillText(number(tick, 2), ROOM.left - 6, py(tick) + 4);
    }
    const first = Math.ceil(ends.x[0]);
    const every = Math.max(1, Math.ceil((ends.x[1] - ends.x[0]) / 12));
    context.textAlign = "center";
    for (let x = first; x <= ends.x[1]; x += every) context.fillText(String(x), px(x), height - 8);
    points.x.forEach((x, at) => {
      const y = points.y[at];
      if (y === null) return;
      context.globalAlpha = range && (x < range[0] || x > range[1]) ? 0.1 : 0.6;
      context.fillStyle = colour(Math.max(0, kinds.indexOf(points.kind[at])));
      context.beginPath();
      context.arc(px(x) + shift(at), py(y) + ((at % 7) - 3) * 1.2, 3, 0, 7);
      context.fill();
    });
    context.globalAlpha = 1;
    if (chosen) {
      context.fillStyle = style("accent");
      context.globalAlpha = 0.15;
      context.fillRect(chosen.x, chosen.y, chosen.toX - chosen.x, chosen.toY - chosen.y);
      context.globalAlpha = 1;
    }
  };
  useEffect(() => draw(), [points, kinds, range?.[0], range?.[1], width, theme]);
  const place = (event: MouseEvent) => {
    const area = canvas.current!.getBoundingClientRect();
    return { x: event.clientX - area.left, y: event.clientY - area.top };
  };
  const end = (event: MouseEvent) => {
    const from = drag.current;
    drag.current = null;
    if (!from) return;
    const to = place(event);
    draw();
    if (Math.abs(to.x - from.x) > 5 || Math.abs(to.y - from.y) > 5) {
      const [x, y] = [[from.x, to.x].sort((a, b) => a - b), [from.y, to.y].sort((a, b) => b - a)];
      onBox([Math.ceil(unx(x[0])), Math.floor(unx(x[1]))], [uny(y[0]), uny(y[1])]);
      return;
    }
    let best = -1;
    let near = 144;
    points.x.forEach((x, at) => {
      const y = points.y[at];
      if (y === null) return;
      const size = (px(x) + shift(at) - to.x) ** 2 + (py(y) - to.y) ** 2;
      if (size < near) [near, best] = [size, at];
    });
    if (best >= 0) onPoint(points.id[best]);
  };
  return (
    <div ref={box} class="scatter">
      <canvas
        ref={canvas}
        style={{ width: "100%", height: `${height}px` }}
        role="img"
        aria-label={`${points.x.length} rollouts by step and reward`}
        onMouseDown={(event) => (drag.current = place(event))}
        onMouseMove={(event) => {
          if (!drag.current) return;
          const to = place(event);
          draw({ ...drag.current, toX: to.x, toY: to.y });
        }}
        onMouseUp={end}
        onMouseLeave={end}
      />
    </div>
  );
}
