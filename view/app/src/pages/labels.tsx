// Labels, stars and notes of a rollout or of one of its messages.
import { useState } from "preact/hooks";
import { api, ApiError, post } from "../api";
import { time } from "../format";
import type { Label } from "../types";
import { toast } from "../ui";

const STAR = "star";
const NOTE = "note";

export interface Labelling {
  store: string;
  rollout: string;
  labels: Label[];
  /** Whether labels can be written. */
  writes: boolean;
  /** Shows the labels that hold after a change. */
  changed: (labels: Label[]) => void;
}

/** Who gives labels from this browser; empty is the user of the server. */
const author = () => localStorage.getItem("author") || undefined;

export async function write(of: Labelling, body: { label?: string; note?: string; message: number | null; author?: string; remove?: boolean }): Promise<void> {
  try {
    const { labels } = await post<{ labels: Label[] }>(api(of.store, "label"), { rollout: of.rollout, author: author(), ...body });
    of.changed(labels);
  } catch (error) {
    toast(error instanceof ApiError ? `${error.message} ${error.fix}` : "The viewer's server does not respond.");
  }
}

export function starred(of: Labelling, message: number | null): Label | undefined {
  return of.labels.find((one) => one.label === STAR && one.message === message);
}

export function toggleStar(of: Labelling, message: number | null): Promise<void> {
  const there = starred(of, message);
  return write(of, { label: STAR, message, remove: there !== undefined, author: there?.author });
}

/** The labels of one place, with what is needed to add and to take away. `message` null is the whole rollout. */
export function Labels({ of, message, open, onOpen }: { of: Labelling; message: number | null; open: boolean; onOpen: (open: boolean) => void }) {
  const here = of.labels.filter((one) => one.message === message);
  const star = starred(of, message);
  const place = message === null ? "the rollout" : `message ${message + 1}`;
  return (
    <span class="labels">
      {(of.writes || star) && (
        <button class={`quiet star ${star ? "on" : ""}`} disabled={!of.writes} aria-pressed={star !== undefined} aria-label={`Star ${place}`} title={star ? `${star.author}, ${time(star.created_at)}` : `Star ${place}`} onClick={() => void toggleStar(of, message)}>
          {star ? "★" : "☆"}
        </button>
      )}
      {here.filter((one) => one.label !== STAR).map((one) => (
        <span key={`${one.label} ${one.author}`} class="tag label-tag" title={`${one.author}, ${time(one.created_at)}`}>
          {one.label === NOTE ? <q>{one.note}</q> : one.label}
          {of.writes && (
            <button class="quiet" aria-label={`Take ${one.label} off ${place}`} onClick={() => void write(of, { ...(one.label === NOTE ? {} : { label: one.label }), message, author: one.author, remove: true })}>
              ×
            </button>
          )}
        </span>
      ))}
      {of.writes && !open && (
        <button class="quiet small" aria-label={`Label ${place}`} onClick={() => onOpen(true)}>
          + label
        </button>
      )}
      {of.writes && open && <Form of={of} message={message} onClose={() => onOpen(false)} />}
    </span>
  );
}

function Form({ of, message, onClose }: { of: Labelling; message: number | null; onClose: () => void }) {
  const [label, setLabel] = useState("");
  const [note, setNote] = useState("");
  const [name, setName] = useState(author() ?? "");
  const save = async () => {
    if (name) localStorage.setItem("author", name);
    else localStorage.removeItem("author");
    if (label.trim()) await write(of, { label: label.trim(), message, author: name || undefined });
    if (note.trim()) await write(of, { note: note.trim(), message, author: name || undefined });
    onClose();
  };
  return (
    <form
      class="label-form"
      onSubmit={(event) => {
        event.preventDefault();
        void save();
      }}
      onKeyDown={(event) => event.key === "Escape" && onClose()}
    >
      <input ref={(input) => input?.focus()} aria-label="Label" placeholder="good, leak, …" maxLength={64} value={label} onInput={(event) => setLabel(event.currentTarget.value)} />
      <input aria-label="Note" placeholder="a note" maxLength={10000} value={note} onInput={(event) => setNote(event.currentTarget.value)} />
      <input aria-label="Author" placeholder="your name" maxLength={128} value={name} onInput={(event) => setName(event.currentTarget.value)} />
      <button>save</button>
      <button type="button" class="quiet" onClick={onClose}>cancel</button>
    </form>
  );
}
