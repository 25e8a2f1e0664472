// One listener for all keys; a page registers what its keys do.
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";

export interface Key {
  key: string;
  does: string;
  run: () => void;
}

const active = new Map<symbol, Key[]>();

/** The keys of a page while it is shown. */
export function useKeys(keys: Key[]): void {
  const owner = useRef(Symbol());
  active.set(owner.current, keys);
  useEffect(() => () => void active.delete(owner.current), []);
}

export function activeKeys(): Key[] {
  return [...active.values()].flat();
}

export function listen(): () => void {
  const press = (event: KeyboardEvent) => {
    const target = event.target as HTMLElement;
    if (event.key === "Escape" && target.matches?.("input, textarea, select")) target.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches?.("input:not([type=checkbox]), textarea, select")) return;
    if (document.querySelector("dialog[open]")) return;
    const found = activeKeys().findLast((one) => one.key === event.key);
    if (!found) return;
    // Enter and arrows on a control are the control's own.
    if (/^(Enter| |Arrow.*)$/.test(event.key) && target.matches?.("a, button, summary, input, [role=button]")) return;
    event.preventDefault();
    // After j and k, Enter is for the chosen row and not for a link that was clicked before.
    if (/^[jk]$/.test(event.key) && target.matches?.("a, button, summary")) target.blur();
    found.run();
  };
  addEventListener("keydown", press);
  return () => removeEventListener("keydown", press);
}

export function Help({ onClose }: { onClose: () => void }): VNode {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} class="help" aria-labelledby="help-title" onClose={onClose} onClick={(event) => event.target === dialog.current && dialog.current?.close()}>
      <div>
        <header>
          <h2 id="help-title">Keys on this page</h2>
          <button class="quiet" onClick={() => dialog.current?.close()}>
            Close
          </button>
        </header>
        <dl class="keys">
          {activeKeys().map((one) => (
            <div key={one.key}>
              <dt>
                <kbd>{one.key === " " ? "Space" : one.key}</kbd>
              </dt>
              <dd>{one.does}</dd>
            </div>
          ))}
        </dl>
      </div>
    </dialog>
  );
}
