// Code with its strings, numbers, comments and common words marked; one small grammar for all languages.
import type { VNode } from "preact";
import { visible } from "./format";

const WORDS =
  "and as async await break case catch class const continue def del do elif else enum except export extends false finally fn for from function if impl import in interface is lambda let match new nil none not null or pass pub raise return select self static struct super switch this throw true try type typeof use var void while with yield where group order by join on limit insert update delete create table";
const KEYWORDS = new Set(WORDS.split(" "));
const PARTS =
  /(?<comment>\/\/[^\n]*|#[^\n]*|--[^\n]*|\/\*[\s\S]*?\*\/)|(?<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|(?<number>\b\d[\d_.]*(?:e[+-]?\d+)?\b)|(?<word>[A-Za-z_]\w*)/g;
const LONGEST = 20_000; // beyond, marking costs more than it helps

export function Code({ text, language = "" }: { text: string; language?: string }): VNode {
  const shown = visible(text);
  return (
    <pre class="code" data-language={language} tabIndex={0}>
      <code>{shown.length > LONGEST || language === "text" ? shown : marked(shown)}</code>
    </pre>
  );
}

function marked(text: string): (string | VNode)[] {
  const parts: (string | VNode)[] = [];
  let last = 0;
  for (const match of text.matchAll(PARTS)) {
    const kind = Object.entries(match.groups ?? {}).find(([, value]) => value !== undefined)?.[0];
    if (kind === "word" && !KEYWORDS.has(match[0].toLowerCase())) continue;
    if (match.index > last) parts.push(text.slice(last, match.index));
    parts.push(<span class={`c-${kind}`}>{match[0]}</span>);
    last = match.index + match[0].length;
  }
  parts.push(text.slice(last));
  return parts;
}
