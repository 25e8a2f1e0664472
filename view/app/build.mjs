// Builds ../static from src, one script and one style sheet: the same bytes for the same package-lock.json.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";

const out = new URL("../static/", import.meta.url).pathname;
mkdirSync(out, { recursive: true });
await build({
  entryPoints: [
    { in: "src/main.tsx", out: "app" },
    { in: "src/app.css", out: "app" },
  ],
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife", // not a module: a bundle is opened from files, where modules do not load
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "eof",
  charset: "utf8",
});
for (const name of ["index.html", "icon.svg"]) copyFileSync(`src/${name}`, `${out}${name}`);

// What it was built from, so that a test without Node can say whether a source changed since.
const sources = ["package.json", "package-lock.json", "build.mjs", ...readdirSync("src", { recursive: true }).map((name) => `src/${name}`)];
const hash = createHash("sha256");
for (const name of sources.filter((name) => /\.(ts|tsx|css|html|svg|json|mjs)$/.test(name)).sort()) hash.update(`${name}\n`).update(readFileSync(name));
writeFileSync(`${out}built-from.txt`, `${hash.digest("hex")}\n`);
