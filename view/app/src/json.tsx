// A JSON value as a tree that folds; long lists show their beginning first.
import { useState } from "preact/hooks";
import type { VNode } from "preact";
import { visible } from "./format";

const FIRST = 50;

export function Json({ value, depth = 0, open = 2 }: { value: unknown; depth?: number; open?: number }): VNode {
  if (value === null || value === undefined) return <span class="j-null">null</span>;
  if (typeof value === "string") return <span class="j-string">{visible(value)}</span>;
  if (typeof value === "number") return <span class="j-number">{String(value)}</span>;
  if (typeof value === "boolean") return <span class="j-bool">{String(value)}</span>;
  const entries = Array.isArray(value) ? value.map((one, at) => [String(at), one] as const) : Object.entries(value as object);
  if (!entries.length) return <span class="j-null">{Array.isArray(value) ? "[ ]" : "{ }"}</span>;
  const label = Array.isArray(value) ? `${entries.length} ${entries.length === 1 ? "entry" : "entries"}` : `${entries.length} ${entries.length === 1 ? "field" : "fields"}`;
  if (depth === 0) return <Entries entries={entries} depth={depth} open={open} />;
  return (
    <details class="j-fold" open={depth < open}>
      <summary>{label}</summary>
      <Entries entries={entries} depth={depth} open={open} />
    </details>
  );
}

function Entries({ entries, depth, open }: { entries: (readonly [string, unknown])[]; depth: number; open: number }): VNode {
  const [shown, setShown] = useState(FIRST);
  return (
    <dl class="json">
      {entries.slice(0, shown).map(([name, value]) => (
        <div key={name}>
          <dt>{visible(name)}</dt>
          <dd>
            <Json value={value} depth={depth + 1} open={open} />
          </dd>
        </div>
      ))}
      {entries.length > shown && (
        <div>
          <dt />
          <dd>
            <button class="link" onClick={() => setShown(shown + 500)}>
              {entries.length - shown} more
            </button>
          </dd>
        </div>
      )}
    </dl>
  );
}
