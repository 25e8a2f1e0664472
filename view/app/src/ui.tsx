// Small parts that several pages use.
import type { ComponentChildren, VNode } from "preact";
import { useState } from "preact/hooks";
import type { ApiError } from "./api";
import { number } from "./format";

export function Status({ value }: { value: string }): VNode {
  return (
    <span class={`status s-${/^[a-z]+$/.test(value) ? value : "other"}`}>
      <i aria-hidden="true" />
      {value}
    </span>
  );
}

export function Verdict({ passed }: { passed: boolean | null | undefined }): VNode {
  if (passed === null || passed === undefined) return <span class="soft">–</span>;
  return <span class={passed ? "good" : "bad"}>{passed ? "✓ pass" : "✗ fail"}</span>;
}

export function Chip({ label, children, tone }: { label: string; children: ComponentChildren; tone?: string }): VNode {
  return (
    <span class={`chip ${tone ?? ""}`}>
      <span class="chip-label">{label}</span> {children}
    </span>
  );
}

export function Failure({ error }: { error: ApiError }): VNode {
  return (
    <div class="notice bad-notice" role="alert">
      <strong>{error.message}</strong> <span>{error.fix}</span>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }): VNode {
  return (
    <div class="empty">
      <strong>{title}</strong>
      <div>{children}</div>
    </div>
  );
}

export function Spinner(): VNode {
  return (
    <div class="spinner" role="status">
      Loading…
    </div>
  );
}

export function Spark({ values, label }: { values: (number | null)[] | null | undefined; label: string }): VNode | null {
  const known = (values ?? []).filter((value): value is number => value !== null);
  if (known.length < 2) return <span class="soft">–</span>;
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const points = known.map((value, at) => `${((at / (known.length - 1)) * 96 + 2).toFixed(1)},${(22 - ((value - low) / span) * 20).toFixed(1)}`);
  const [x, y] = points.at(-1)!.split(",");
  return (
    <svg class="spark" viewBox="0 0 100 24" role="img" aria-label={`${label}, from ${number(known[0])} to ${number(known.at(-1))}`}>
      <polyline points={points.join(" ")} />
      <circle cx={x} cy={y} r="2" />
    </svg>
  );
}

export function Copy({ text, children, title }: { text: string | (() => string); children: ComponentChildren; title?: string }): VNode {
  const [done, setDone] = useState(false);
  return (
    <button
      class="quiet"
      title={title}
      onClick={async () => {
        await copy(typeof text === "string" ? text : text());
        setDone(true);
        setTimeout(() => setDone(false), 1200);
      }}
    >
      {done ? "copied" : children}
    </button>
  );
}

export async function copy(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).catch(() => legacyCopy(text));
  legacyCopy(text); // over plain HTTP from another machine there is no clipboard
}

function legacyCopy(text: string): void {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

let announced: HTMLElement | null = null;

/** Says something to a screen reader and, for a moment, to everyone. */
export function toast(text: string): void {
  announced ??= document.body.appendChild(Object.assign(document.createElement("div"), { className: "toast", role: "status" }));
  announced.setAttribute("role", "status");
  announced.textContent = text;
  announced.classList.add("on");
  setTimeout(() => announced?.classList.remove("on"), 1600);
}
