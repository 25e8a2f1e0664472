// Rollouts that a server has open: what was said so far, before there is a row.
import { useEffect, useState } from "preact/hooks";
import { api, useData } from "../api";
import { number, time, visible } from "../format";
import { Json } from "../json";
import type { Message } from "../types";

interface Open {
  name: string;
  agent: string;
  calls: number;
  started_at: string;
  last_at: string;
  tokens: number | null;
  messages: Message[];
}

const EVERY_MS = 1500;

export function InFlight({ store, run }: { store: string; run: string }) {
  const [looks, setLooks] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && setLooks((before) => before + 1), EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  const { data } = useData<{ total: number; rows: Open[] }>(api(store, "in-flight", run), String(looks));
  if (!data?.total) return null;
  return (
    <section class="card pad" aria-label="In flight">
      <div class="bar tight">
        <h2>In flight</h2>
        <span class="soft small">{data.total.toLocaleString("en-GB")} open{data.rows.length < data.total ? `, the ${data.rows.length} with the newest calls` : ""}</span>
      </div>
      {data.rows.map((row) => (
        <details key={row.name} class="fold">
          <summary>
            <code>{visible(row.name)}</code> <span class="soft">{row.agent && `${visible(row.agent)}, `}{row.calls} calls{row.tokens === null ? "" : `, ${number(row.tokens, 0)} tokens`}, since {time(row.started_at)}, last at {time(row.last_at)}</span>
          </summary>
          {row.messages.map((message, at) => (
            <div key={at} class="small">
              <b>{visible(message.role)}</b>
              {message.text && <pre class="plain">{visible(message.text)}</pre>}
              {(message.tool_calls ?? []).map((call, index) => <div key={index}><code>{visible(call.name)}</code> <Json value={call.arguments} /></div>)}
            </div>
          ))}
        </details>
      ))}
    </section>
  );
}
