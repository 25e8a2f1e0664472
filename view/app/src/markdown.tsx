// Markdown as elements, never as HTML text: what a rollout says cannot become markup.
import MarkdownIt from "markdown-it";
import type { ComponentChildren, VNode } from "preact";
import { h } from "preact";
import { Code } from "./code";
import { visible } from "./format";

const parser = new MarkdownIt({ html: false, linkify: false, typographer: false, breaks: true });
const SAFE_LINK = /^(https?:|mailto:)/i;

type Token = ReturnType<typeof parser.parse>[number];

export function Markdown({ text }: { text: string }): VNode {
  let tokens: Token[];
  try {
    tokens = parser.parse(visible(text), {});
  } catch {
    return <p class="plain">{visible(text)}</p>;
  }
  return <div class="markdown">{elements(tokens)}</div>;
}

function elements(tokens: Token[]): ComponentChildren[] {
  const root: ComponentChildren[] = [];
  const open: { tag: string; children: ComponentChildren[]; props: Record<string, unknown> }[] = [];
  const add = (child: ComponentChildren) => (open.at(-1)?.children ?? root).push(child);
  for (const token of tokens) {
    if (token.hidden) continue;
    if (token.nesting === 1) open.push({ tag: token.tag, children: [], props: attributes(token) });
    else if (token.nesting === -1) {
      const done = open.pop();
      if (done) add(element(done.tag, done.props, done.children));
    } else add(leaf(token));
  }
  while (open.length) {
    const done = open.pop()!;
    add(element(done.tag, done.props, done.children));
  }
  return root;
}

const TAGS = new Set("p h1 h2 h3 h4 h5 h6 ul ol li blockquote strong em s a table thead tbody tr th td".split(" "));

function element(tag: string, props: Record<string, unknown>, children: ComponentChildren[]): ComponentChildren {
  if (!TAGS.has(tag)) return <span>{children}</span>;
  if (tag === "a" && !props.href) return <span class="badlink">{children}</span>;
  // A heading of a message is no heading of the page.
  if (/^h\d$/.test(tag)) return <p class={`heading ${tag}`}>{children}</p>;
  if (tag === "table") return <div class="scroll" tabIndex={0}>{h("table", {}, children)}</div>;
  return h(tag, props, children);
}

function attributes(token: Token): Record<string, unknown> {
  if (token.tag === "ol" && token.attrGet("start")) return { start: Number(token.attrGet("start")) };
  if (token.tag !== "a") return {};
  const link = String(token.attrGet("href") ?? "");
  return SAFE_LINK.test(link) ? { href: link, title: link, target: "_blank", rel: "noopener noreferrer nofollow" } : {};
}

function leaf(token: Token): ComponentChildren {
  switch (token.type) {
    case "inline":
      return elements(token.children ?? []);
    case "code_inline":
      return <code>{token.content}</code>;
    case "fence":
    case "code_block":
      return <Code text={token.content.replace(/\n$/, "")} language={token.info.trim().split(/\s+/)[0] ?? ""} />;
    case "softbreak":
    case "hardbreak":
      return <br />;
    case "hr":
      return <hr />;
    case "image": // nothing is fetched because a rollout names it
      return <span class="image">[image: {token.content || "no description"} {token.attrGet("src")}]</span>;
    default:
      return token.content;
  }
}
